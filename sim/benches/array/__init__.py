"""Bench of the systolic array."""
