"""What goes over the wire and how a session follows from it. Pure: no I/O, no clock, no randomness."""
