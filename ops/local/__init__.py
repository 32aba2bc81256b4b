"""Real servers as plain child processes, for tests, benches and `supportstream dev`."""
