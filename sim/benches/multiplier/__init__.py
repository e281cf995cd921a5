"""Bench of the gate-level multiplier."""
