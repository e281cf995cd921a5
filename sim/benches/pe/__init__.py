"""Bench of the processing element."""
