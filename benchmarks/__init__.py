"""Side-by-side speed, each against a named rival in one run."""
