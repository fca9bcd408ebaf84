"""The only code that knows one model family from another."""
