"""Where a training stands, in a file: a training that was killed goes on from its last whole epoch, to the same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save as to_safetensors
from torch import nn

from epsilon.files import write_atomically

__all__ = ["Checkpoint", "CheckpointError"]

FORMAT = "epsilon-training"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or belongs to another training."""


class Checkpoint:
    """The state of a training in several phases, one after another, each with a module, an optimizer and a schedule.

    Parameters
    ----------
    path : path or None
        None keeps nothing. A file that exists is read at once.
    key : str
        Says which training it is; a checkpoint of another one is refused.

    Raises
    ------
    CheckpointError
        When the file is damaged, foreign, or of another training.
    """

    def __init__(self, path: str | os.PathLike | None, key: str) -> None:
        self._path = None if path is None else Path(path)
        self._key = key
        self._header: dict = {}
        self._tensors: dict[str, torch.Tensor] = {}
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def restore(
        self,
        phase: str,
        epochs: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
    ) -> int:
        """Bring everything to where this phase stood, and return how many of its ``epochs`` are done."""
        weights = self._part(f"{phase}/module/")
        if not weights:
            return 0
        module.load_state_dict(weights)
        if self._header["phase"] != phase:
            return epochs
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in self._part("optimizer/").items():
            index, _, kind = name.partition("/")
            state.setdefault(int(index), {})[kind] = value
        optimizer.load_state_dict({"state": state, "param_groups": self._header["groups"]})
        schedule.load_state_dict(self._header["schedule"])
        generator.set_state(self._tensors["generator"])
        return self._header["epoch"]

    def save(
        self,
        phase: str,
        epoch: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
    ) -> None:
        """Write that ``epoch`` epochs of this phase are done; the weights of earlier phases stay in the file."""
        found = optimizer.state_dict()
        finished = {name: value for name, value in self._tensors.items() if "/module/" in name and not name.startswith(f"{phase}/")}
        current = {f"{phase}/module/{name}": value for name, value in module.state_dict().items()}
        moments = {f"optimizer/{index}/{kind}": value for index, kinds in found["state"].items() for kind, value in kinds.items()}
        tensors = {**finished, **current, **moments, "generator": generator.get_state()}
        self._tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        self._header = {
            "phase": phase,
            "epoch": epoch,
            "groups": found["param_groups"],
            "schedule": schedule.state_dict(),
        }
        self._write()

    def remember(self, name: str, value: dict) -> None:
        """Write plain JSON beside the state, for what comes after the last phase."""
        self._header.setdefault("notes", {})[name] = value
        self._write()

    def recall(self, name: str) -> dict | None:
        """Return what ``remember`` was last given under that name."""
        return self._header.get("notes", {}).get(name)

    def discard(self) -> None:
        """Delete the file: the training is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._path is not None:
            header = {"key": self._key, **self._header}
            write_atomically(self._path, to_safetensors(self._tensors, metadata={FORMAT: json.dumps(header)}))

    def _part(self, prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in self._tensors.items() if name.startswith(prefix)}

    def _read(self, path: Path) -> None:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                self._header = json.loads((file.metadata() or {})[FORMAT])
                self._tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
            key = self._header["key"]
        except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{path} is not a readable checkpoint of a training ({type(error).__name__})") from None
        if key != self._key:
            raise CheckpointError(f"{path} belongs to another training ({key}), not to this one ({self._key})")
