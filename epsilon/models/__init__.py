"""Floating-point multi-exit networks, to be trained and then quantised."""

from epsilon.models.multi_exit import MultiExit, joint_loss
from epsilon.models.zoo import NetworkName, build, parse

__all__ = ["MultiExit", "NetworkName", "build", "joint_loss", "parse"]
