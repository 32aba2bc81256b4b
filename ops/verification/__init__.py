"""Whether traffic kept the invariants of DESIGN §6: `checker` decides, `run` reads the topics and the store for it."""
