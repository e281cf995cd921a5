"""The accelerator in bit lanes: as many simulated accelerators as lanes, each with an image, or a fault map, of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from epsilon.accelerator import ScanRecords, StuckBits
from epsilon.config import ArrayConfig
from epsilon.executor import Execution, Observer
from epsilon.faults import FaultMap
from epsilon.network import QuantizedNetwork
from sim import cycles
from sim import program as streams
from sim.driver import ArrayDriver, TilePass
from sim.lanes.model import LaneProgram, LanesModel
from sim.program import Program, Run
from sim.tiling import Gemm

__all__ = ["FaultLanes", "LanesAccelerator", "NetFault"]

#: As many as the widest registers hold.
LANES_PER_THREAD = 512


class LanesAccelerator(ArrayDriver):
    """Implements ``Accelerator`` on bit lanes: image i of a batch runs on lane i; weights and faults are the same in all lanes.

    Every lane is an accelerator that takes as many cycles for its image as any other accelerator would. The counters are those of
    one accelerator that ran all images: those of one image times the number of images; lanes without an image count nothing.
    What all lanes do alike, scanning and probing, is counted once.

    Parameters
    ----------
    config : ArrayConfig
    lanes : int or None
        Images that run at once; larger batches are run in parts. None: 512 for each thread.
    threads : int
        Cores that share the lanes.
    backend : str
        See ``sim.lanes.model.LanesModel``.
    nets : bool
        A model whose nets can be stuck, for ``FaultLanes``.

    Raises
    ------
    ValueError
        For lanes, threads or a back end that the model refuses, and when a tool of the build is missing or fails (``ToolError``).
    """

    def __init__(
        self, config: ArrayConfig, *, lanes: int | None = None, threads: int = 1, backend: str = "auto", nets: bool = False
    ) -> None:
        super().__init__(config)
        lanes = LANES_PER_THREAD * threads if lanes is None else lanes
        self._model = LanesModel(config, lanes=lanes, threads=threads, backend=backend, nets=nets)

    @property
    def lanes(self) -> int:
        """Images that run at once."""
        return self._model.lanes

    def run_layer(self, layer: str, activations: torch.Tensor) -> torch.Tensor:
        """Return the accumulators of a layer, int32, without bias; see ``Accelerator.run_layer``."""
        if len(activations) <= self.lanes:
            return super().run_layer(layer, activations)
        return torch.cat([super(LanesAccelerator, self).run_layer(layer, part) for part in activations.split(self.lanes)])

    def passes(self, images: int) -> int:
        """Return 1: the images of a program run side by side."""
        return 1

    def execute(self, program: Program, *, expected_cycles: int) -> Run:
        """Run a program on all lanes at once, its images on the first ones."""
        images = program.images
        run = self._model.run(
            LaneProgram(
                commands=program.commands,
                weights=program.weights,
                activations=program.activations,
                faults=program.faults,
                results=program.results // images,
                readback=program.readback,
                signatures=program.signatures,
            ),
            max_cycles=2 * expected_cycles + 1000,
        )
        results = run.results[:images]
        return Run(
            results=results.reshape(-1, results.shape[-1]),
            readback=self._common(run.readback),
            signatures=self._common(run.signatures),
            busy_cycles=images * run.busy_cycles,
            clock_cycles=run.clock_cycles,
            accepted={name: images * beats for name, beats in run.accepted.items()},
        )

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def _activation_beats(self, gemm: Gemm, vectors: np.ndarray) -> np.ndarray:
        """Return every lane's activations, uint8 (lanes, beats, rows); those of one beat lie together, as they are taken."""
        chunks = list(streams.activation_chunks(self.config, gemm, vectors))
        sizes = [math.prod(chunk.shape[1:-1]) for chunk in chunks]
        beats = np.zeros((sum(sizes), self.lanes, self.config.rows), np.int8)
        at = 0
        for chunk, size in zip(chunks, sizes, strict=True):
            target = beats[at : at + size].reshape(*chunk.shape[1:-1], *beats.shape[1:])
            target[..., : len(vectors), :] = np.moveaxis(chunk, 0, -2)
            at += size
        return beats.view(np.uint8).swapaxes(0, 1)

    def _common(self, beats: np.ndarray) -> np.ndarray:
        """Return the beats (beats, bytes) of lanes (lanes, beats, bytes) that all do the same."""
        return np.ascontiguousarray(beats[0])


@dataclass(frozen=True)
class NetFault:
    """A net of one processing element stuck at 0 or 1; ``net`` is an index into ``FaultLanes.net_names``."""

    row: int
    col: int
    net: int
    stuck_at: int


class FaultLanes:
    """A network on many faulty accelerators at once, each lane with faults of its own.

    Parameters
    ----------
    config : ArrayConfig
    network : QuantizedNetwork
    lanes, threads, backend
        As of ``LanesAccelerator``.
    nets : bool
        Whether single nets of the processing elements can be stuck too (slower).

    Raises
    ------
    ValueError
        When the array is built without fault injection, and as ``LanesAccelerator``.
    """

    def __init__(
        self,
        config: ArrayConfig,
        network: QuantizedNetwork,
        *,
        lanes: int | None = None,
        threads: int = 1,
        backend: str = "auto",
        nets: bool = False,
    ) -> None:
        if not config.fault_injection:
            raise ValueError("The accelerator is built without fault injection, so no fault can be set")
        self.network = network
        self._nets = nets
        self._driver = _OwnFaults(config, lanes=lanes, threads=threads, backend=backend, nets=nets)
        self._driver.load(network)

    @property
    def lanes(self) -> int:
        """Faulty accelerators that are simulated at once."""
        return self._driver.lanes

    @property
    def net_names(self) -> list[str]:
        """The nets of a processing element that can be stuck; none without ``nets``."""
        return self._driver.net_names() if self._nets else []

    def run(
        self,
        codes: torch.Tensor,
        faults: Sequence[FaultMap | NetFault],
        *,
        observer: Observer | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the logits of every exit, float64 (faults, classes).

        Parameters
        ----------
        codes : int8 (1, C, H, W) or (faults, C, H, W)
            One image for all, or an image for each.
        faults : sequence of FaultMap or NetFault
            Those of each accelerator. Any number; as many at once as there are lanes.
        observer : callable, optional
            Called after every weighted layer, for each part of the faults in turn; see ``epsilon.executor.Observer``.
        progress : callable, optional
            Called with the faults done and all faults.
        """
        if len(codes) not in (1, len(faults)):
            raise ValueError(f"There must be one image, or one for each of the {len(faults)} fault maps, not {len(codes)}")
        found: list[list[torch.Tensor]] = [[] for _ in self.network.exits]
        for start, part in self._parts(faults):
            own = codes.expand(len(part), *codes.shape[1:]) if len(codes) == 1 else codes[start : start + len(part)]
            self._driver.set_lane_faults(part)
            execution = Execution(self._driver, own, observer)
            for index, logits in enumerate(found):
                logits.append(execution.exit(index))
            if progress is not None:
                progress(start + len(part), len(faults))
        return tuple(torch.cat(logits) for logits in found)

    def read_records(self, faults: Sequence[FaultMap | NetFault]) -> dict[str, ScanRecords]:
        """Return what the signature unit of each accelerator counts, layer by layer; every field begins with an axis (faults,)."""
        found: dict[str, list[ScanRecords]] = {layer.name: [] for layer in self.network.weighted}
        for _, part in self._parts(faults):
            self._driver.set_lane_faults(part)
            for name, records in self._driver.read_lane_records().items():
                found[name].append(records)
        return {name: _joined(parts) for name, parts in found.items()}

    def close(self) -> None:
        """Free the model."""
        self._driver.close()

    def _parts(self, faults: Sequence[FaultMap | NetFault]) -> Iterator[tuple[int, Sequence[FaultMap | NetFault]]]:
        if not len(faults):
            raise ValueError("A campaign needs at least one fault map")
        for start in range(0, len(faults), self.lanes):
            yield start, faults[start : start + self.lanes]


def _joined(parts: list[ScanRecords]) -> ScanRecords:
    return ScanRecords(*(np.concatenate(fields) for fields in zip(*(vars(part).values() for part in parts), strict=True)))


class _OwnFaults(LanesAccelerator):
    """The driver of lanes with different faults: masks, read words and records have a lane axis behind that of the beats."""

    def __init__(self, config: ArrayConfig, **options) -> None:
        super().__init__(config, **options)
        self._maps: list[FaultMap] = []
        self._nets_stuck = False

    def load(self, network: QuantizedNetwork) -> None:
        super().load(network)
        self._records = [np.zeros((len(tiles), self.lanes, tiles.shape[1]), np.uint8) for tiles in self._records]

    def net_names(self) -> list[str]:
        """Return the nets of a processing element that can be stuck."""
        return self._model.net_names()

    def set_lane_faults(self, faults: Sequence[FaultMap | NetFault]) -> None:
        """Give every lane its own faults, those beyond the given ones none."""
        self._maps = [one if isinstance(one, FaultMap) else FaultMap.empty() for one in faults]
        for one in self._maps:
            one.require_fit(self.network, self.config)
        self._beats.clear()
        self._state.faults_changed()
        if self._nets_stuck:
            # Whatever the stuck nets did to the registers must not outlive them.
            self._model.set_net_faults([])
            self._model.reset()
            self._inside = TilePass.nothing(cycles.FLUSH_TILES)
        rows, cols = self.config.rows, self.config.cols
        masks = np.zeros((self.lanes, rows, cols), np.uint16)
        for lane, one in enumerate(self._maps):
            if one.has_array:
                sa0, sa1 = one.array_masks(rows, cols)
                masks[lane] = sa0.astype(np.uint16) | sa1.astype(np.uint16) << 8
        self._run(
            TilePass.nothing(1),
            commands=streams.command_beats(vectors=np.zeros(1, int), masks=1),
            weights=np.zeros((rows, 2 * cols), np.uint8),
            faults=streams.tile_beats(masks).reshape(self.lanes, rows, 2 * cols),
            vectors=[0],
        )
        nets = [(lane, one.row, one.col, one.net, one.stuck_at) for lane, one in enumerate(faults) if isinstance(one, NetFault)]
        self._nets_stuck = bool(nets)
        if nets:
            self._model.set_net_faults(nets)

    def read_lane_records(self) -> dict[str, ScanRecords]:
        """Return the records of all layers, every field with the axis of the lanes that have faults first."""
        for layer in self._state.stale:
            self._load_pass(layer, readback=False)
        self._flush()
        self._state.checked()
        tiles = (beats.swapaxes(0, 1)[: len(self._maps)] for beats in self._records)
        return {layer.name: self._collect_records(layer, own) for layer, own in zip(self.network.weighted, tiles, strict=True)}

    @property
    def stuck_per_weight(self) -> bool:
        """Whether stored weights of any lane have stuck bits of their own."""
        return any(faults.has_storage for faults in self._maps)

    def _layer_faults(self, layer: str, gemm: Gemm) -> np.ndarray:
        """Return every lane's fault beats of a layer, uint8 (lanes, beats, bytes)."""
        node = self._memory.layer(layer)
        tile_rows = len(streams.split_matrix(self.config, gemm, np.zeros(node.matrix.shape, np.uint8))) * self.config.rows
        beats = np.zeros((self.lanes, tile_rows, 2 * self.config.cols), np.uint8)
        for lane, faults in enumerate(self._maps):
            stuck: StuckBits | None = faults.stuck_bits(node, self.config)
            if stuck is not None:
                beats[lane] = streams.fault_beats(self.config, gemm, stuck)
        return beats

    def _common(self, beats: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(beats.swapaxes(0, 1))
