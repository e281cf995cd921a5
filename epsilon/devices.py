"""Where torch computes."""

from __future__ import annotations

import torch

__all__ = ["require_device"]


def require_device(name: str) -> torch.device:
    """Return a device that works here.

    Raises
    ------
    ValueError
        For an unknown device, or one that this machine or this build of torch does not have.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The device {name!r} cannot be used here ({reason}); cpu always can") from None
    return device
