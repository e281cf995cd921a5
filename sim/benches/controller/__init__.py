"""Bench of the accelerator under the controller."""
