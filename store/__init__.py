"""The session store: where the state of a session lives between turns."""
