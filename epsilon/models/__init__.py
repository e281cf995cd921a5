"""Floating-point multi-exit networks, to be trained and then quantised."""

from epsilon.models.multi_exit import MultiExit, joint_loss
from epsilon.models.zoo import build, names

__all__ = ["MultiExit", "build", "joint_loss", "names"]
