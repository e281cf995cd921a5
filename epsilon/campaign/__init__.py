"""Fault campaigns: many networks, multipliers, fault maps and techniques, one row each."""
