"""Workers: take inbound events in their sessions' order, answer them, keep the session, publish the reply."""
