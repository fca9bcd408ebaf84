"""Runs to what people read: pure functions of run folders."""
