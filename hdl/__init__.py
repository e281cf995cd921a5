"""The hardware: a weight-stationary systolic array of approximate multipliers with injectable stuck-at faults, in Amaranth."""
