"""Longer measurements, each a make target whose output is committed."""
