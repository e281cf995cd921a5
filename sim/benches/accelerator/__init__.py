"""Bench of the whole accelerator through its streams."""
