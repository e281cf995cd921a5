"""The accelerator's driver: turns operations on layers into programs for its streams, and what comes back into results.

Whoever carries the streams (the Verilated model, a cocotb bench, a host link) implements ``execute``; everything else is here once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from epsilon.accelerator import Counters, ScanRecords, StuckBits, WeightWords
from epsilon.config import ArrayConfig
from epsilon.energy import Events
from epsilon.faults import FaultMap, pes_of_weights
from epsilon.network import Convolution, QuantizedNetwork, WeightedLayer
from epsilon.signatures import golden_quartiles
from epsilon.weight_memory import WeightMemory, require_activations
from sim import cycles
from sim import program as streams
from sim.activity import Activity, events_of
from sim.ledger import ScanState
from sim.program import Program, Run
from sim.tiling import Gemm, Tile, gemm_of, tiles, weight_tiles

__all__ = ["ArrayDriver", "TilePass"]

NONE = -1


@dataclass(frozen=True, eq=False)
class TilePass:
    """The tiles of one program, as the scan chain will see them: whose they are, and what of them is reported.

    ``layer`` index into the network's weighted layers (NONE: nobody's), ``tile`` index of the weight tile, ``signature`` and
    ``readback`` as in the command; each an array (tiles,).
    """

    layer: np.ndarray
    tile: np.ndarray
    signature: np.ndarray
    readback: np.ndarray

    def __add__(self, other: TilePass) -> TilePass:
        return TilePass(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __getitem__(self, part: slice) -> TilePass:
        return TilePass(*(values[part] for values in vars(self).values()))

    def repeated(self, times: int) -> TilePass:
        return TilePass(*(np.tile(values, times) for values in vars(self).values()))

    @classmethod
    def nothing(cls, count: int) -> TilePass:
        none = np.zeros(count, dtype=bool)
        return cls(np.full(count, NONE), np.zeros(count, dtype=int), none, none)


class ArrayDriver(ABC):
    """Implements ``Accelerator`` on top of the streams of ``hdl.accelerator.EpsilonAccelerator``.

    Parameters
    ----------
    config : ArrayConfig

    Raises
    ------
    ValueError
        For a multiplier that the hardware can have no form of.
    """

    def __init__(self, config: ArrayConfig) -> None:
        config.multiplier.require_form(config.level)
        self.config = config
        self._memory = WeightMemory(config)
        self._state = ScanState()
        self._counters = Counters()
        self._records: list[np.ndarray] = []
        self._beats: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._array_stuck: tuple[np.ndarray, np.ndarray] | None = None
        # The array holds two tiles that no later one has pushed out yet.
        self._inside = TilePass.nothing(cycles.FLUSH_TILES)

    @abstractmethod
    def execute(self, program: Program, *, expected_cycles: int) -> Run:
        """Run a program until the accelerator is idle; ``expected_cycles`` per image by the cycle model."""

    def passes(self, images: int) -> int:
        """Return how often a program's tiles go through the array for so many images: each loads the weights anew."""
        return images

    @property
    def network(self) -> QuantizedNetwork:
        """The network in the weight memory."""
        return self._memory.network

    @property
    def stuck_per_weight(self) -> bool:
        """Whether stored weights have stuck bits of their own, which then come with every tile."""
        return self._memory.stuck_per_weight

    def load(self, network: QuantizedNetwork) -> None:
        """Write the network's weights into the weight memory, flags clear; faults stay."""
        self._memory.load(network)
        self._state.load(network)
        self._beats.clear()
        self._index = {layer.name: index for index, layer in enumerate(network.weighted)}
        self._weights_of = {layer.name: _loading(layer) for layer in network.weighted}
        self._quartiles = {layer.name: golden_quartiles(layer) for layer in network.weighted}
        self._records = [
            np.zeros((len(_weight_tiles(self.config, self._weights_of[layer.name])), 8 * self.config.cols), dtype=np.uint8)
            for layer in network.weighted
        ]
        self._inside = replace(self._inside, layer=np.full(cycles.FLUSH_TILES, NONE))

    def set_faults(self, faults: FaultMap | None) -> None:
        """Make these the stuck bits of the weight registers (None: no fault), at once for the array's own."""
        self._memory.set_faults(faults)
        self._state.faults_changed()
        self._beats.clear()
        if not self.config.fault_injection:
            return
        rows, cols = self.config.rows, self.config.cols
        sa0, sa1 = (np.zeros((rows, cols), np.uint8),) * 2 if faults is None else faults.array_masks(rows, cols)
        masks = streams.tile_beats((sa0.astype(np.uint16) | sa1.astype(np.uint16) << 8)[None])
        # Instrumentation: the cycles of this program are nobody's.
        self._run(
            TilePass.nothing(1),
            commands=streams.command_beats(vectors=np.zeros(1, int), masks=1),
            weights=np.zeros((rows, 2 * cols), np.uint8),
            faults=masks,
            vectors=[0],
        )

    def run_layer(self, layer: str, activations: torch.Tensor) -> torch.Tensor:
        """Return the accumulators of a layer, int32, without bias; see ``Accelerator.run_layer``."""
        node = self._memory.layer(layer)
        require_activations(node, activations)
        vectors, out_shape = _unfold(node, activations.cpu().numpy())
        batch = len(vectors)
        gemm = gemm_of(node, tuple(activations.shape[1:]))
        if batch == 0:
            return torch.zeros((0, *out_shape), dtype=torch.int32)
        plan = _tiles(self.config, gemm)
        first_chunk = plan.vectors_from == 0
        weights, faults = self._layer_beats(layer, gemm)
        chunks = int(plan.vectors_from.max()) // self.config.accumulator_depth + 1
        run = self._run(
            TilePass(np.where(first_chunk, self._index[layer], NONE), plan.weight_tile, first_chunk, np.zeros_like(first_chunk)),
            commands=self._commands(plan, layer, first_chunk, readback=False),
            weights=np.tile(weights, (chunks, 1)),
            faults=np.tile(faults, (chunks, 1)),
            activations=self._activation_beats(gemm, vectors),
            vectors=plan.vectors,
            results=batch * int(plan.vectors[plan.last].sum()),
            images=batch,
            counts_as="run",
        )
        self._state.passed_through(layer)
        sums = streams.join_accumulators(self.config, gemm, run.results, batch)
        return torch.from_numpy(np.ascontiguousarray(sums).reshape(batch, *out_shape))

    def read_records(self) -> dict[str, ScanRecords]:
        """Return what the signature unit counted of every layer's weights as they are now."""
        for layer in self._state.stale:
            self._load_pass(layer, readback=False)
        self._flush()
        self._state.checked()
        tiles = zip(self.network.weighted, self._records, strict=True)
        return {layer.name: self._collect_records(layer, beats) for layer, beats in tiles}

    def read_weights(self, layer: str) -> np.ndarray:
        """Return the layer's weights as the multipliers see them, int8 (N, K), read back through the scan chain."""
        run = self._load_pass(layer, readback=True)
        self._state.passed_through(layer)
        words = streams.beats_to_tiles(self.config, run.readback)
        codes = (words & 0xFF).astype(np.uint8).view(np.int8)
        return np.ascontiguousarray(streams.join_matrix(self.config, self._weights_of[layer], codes))

    def probe(self, layer: str) -> StuckBits:
        """Return the stuck bits under each weight of the layer, found by loading 0x00 and 0xFF."""
        node = self._memory.layer(layer)
        gemm = self._weights_of[layer]
        if self.stuck_per_weight:
            tile_count = len(_weight_tiles(self.config, gemm))
            _, faults = self._layer_beats(layer, gemm)
            # Each tile's faults come twice, with either pattern.
            per_tile = faults.reshape(tile_count, self.config.rows, -1)
            sa0, sa1 = self._probe_tiles(np.repeat(per_tile, 2, axis=0).reshape(-1, faults.shape[1]), tile_count)
            return StuckBits(*(np.ascontiguousarray(streams.join_matrix(self.config, gemm, bits)) for bits in (sa0, sa1)))
        if not self._state.array_probed or self._array_stuck is None:
            sa0, sa1 = self._probe_tiles(None, 1)
            self._array_stuck = sa0[0], sa1[0]
            self._state.array_probed = True
        pe = pes_of_weights(node, self.config)
        return StuckBits(*(bits[pe] for bits in self._array_stuck))

    def write_weights(self, layer: str, words: WeightWords) -> None:
        """Replace the layer's words in the weight memory."""
        changed = self._memory.write(layer, words)
        self._beats.pop(layer, None)
        self._state.written(layer)
        self._counters = replace(self._counters, events=self._counters.events + Events(weight_writes=changed))

    def counters(self) -> Counters:
        """Return the cycles that the accelerator itself counted, and the events of its streams, since the last reset."""
        return self._counters

    def reset_counters(self) -> None:
        """Set all counters to zero."""
        self._counters = Counters()

    def _layer_beats(self, layer: str, gemm: Gemm) -> tuple[np.ndarray, np.ndarray]:
        """Return the layer's weight beats and, with faults of stored weights, its fault beats (else none)."""
        if layer not in self._beats:
            weights = streams.weight_beats(self.config, gemm, self._memory.words(layer))
            faults = np.zeros((0, 2 * self.config.cols), np.uint8)
            if self.stuck_per_weight:
                faults = self._layer_faults(layer, gemm)
            self._beats[layer] = weights, faults
        return self._beats[layer]

    def _activation_beats(self, gemm: Gemm, vectors: np.ndarray) -> np.ndarray:
        """Return the program's activations, of int8 (batch, groups, M, K)."""
        return streams.activation_beats(self.config, gemm, vectors)

    def _layer_faults(self, layer: str, gemm: Gemm) -> np.ndarray:
        """Return the layer's fault beats."""
        none = np.zeros(self._memory.layer(layer).matrix.shape, np.uint8)
        return streams.fault_beats(self.config, gemm, self._memory.stuck(layer) or StuckBits(none, none))

    def _commands(self, plan: _Plan, layer: str, signature: np.ndarray, *, readback: bool) -> np.ndarray:
        return streams.command_beats(
            vectors=plan.vectors,
            rows=plan.rows,
            cols=plan.cols,
            first=plan.first,
            last=plan.last,
            masks=int(self.stuck_per_weight),
            readback=int(readback),
            signature=signature,
            quartiles=self._quartiles[layer],
        )

    def _load_pass(self, layer: str, *, readback: bool) -> Run:
        """Load every tile of a layer once and push all of them out."""
        self._memory.layer(layer)
        gemm = self._weights_of[layer]
        plan = _weight_tiles(self.config, gemm)
        weights, faults = self._layer_beats(layer, gemm)
        count = len(plan)
        yes = np.ones(count, dtype=bool)
        return self._run(
            TilePass(np.full(count, self._index[layer]), np.arange(count), yes, yes & readback)
            + TilePass.nothing(cycles.FLUSH_TILES),
            commands=np.concatenate([self._commands(plan, layer, yes, readback=readback), self._flush_commands()]),
            weights=np.concatenate([weights, self._flush_weights()]),
            faults=faults,
            vectors=[0] * (count + cycles.FLUSH_TILES),
            counts_as="scan",
            filler=self._flush_beats,
        )

    def _probe_tiles(self, faults: np.ndarray | None, tile_count: int) -> tuple[np.ndarray, np.ndarray]:
        """Load 0x00 and 0xFF (each pair with the faults of a tile); return sa0 and sa1, uint8 (tiles, rows, cols)."""
        rows, cols = self.config.rows, self.config.cols
        patterns = np.tile(np.array([0x00, 0xFF], np.uint16), tile_count)
        weights = streams.tile_beats(np.broadcast_to(patterns[:, None, None], (2 * tile_count, rows, cols)))
        probing = replace(TilePass.nothing(2 * tile_count), readback=np.ones(2 * tile_count, dtype=bool))
        run = self._run(
            probing + TilePass.nothing(cycles.FLUSH_TILES),
            commands=np.concatenate(
                [
                    streams.command_beats(vectors=np.zeros(2 * tile_count, int), masks=int(faults is not None), readback=1),
                    self._flush_commands(),
                ]
            ),
            weights=np.concatenate([weights, self._flush_weights()]),
            faults=np.zeros((0, 2 * cols), np.uint8) if faults is None else faults,
            vectors=[0] * (2 * tile_count + cycles.FLUSH_TILES),
            counts_as="probe",
            patterns=len(weights),
            filler=self._flush_beats,
        )
        seen = (streams.beats_to_tiles(self.config, run.readback) & 0xFF).astype(np.uint8).reshape(tile_count, 2, rows, cols)
        return ~seen[:, 1], seen[:, 0]

    def _flush(self) -> Run:
        return self._run(
            TilePass.nothing(cycles.FLUSH_TILES),
            commands=self._flush_commands(),
            weights=self._flush_weights(),
            faults=np.zeros((0, 2 * self.config.cols), np.uint8),
            vectors=[0] * cycles.FLUSH_TILES,
            counts_as="scan",
            filler=self._flush_beats,
        )

    def _flush_commands(self) -> np.ndarray:
        return streams.command_beats(vectors=np.zeros(cycles.FLUSH_TILES, int))

    def _flush_weights(self) -> np.ndarray:
        return np.zeros((self._flush_beats, 2 * self.config.cols), np.uint8)

    @property
    def _flush_beats(self) -> int:
        return cycles.FLUSH_TILES * self.config.rows

    def _run(
        self,
        tile_pass: TilePass,
        *,
        commands: np.ndarray,
        weights: np.ndarray,
        faults: np.ndarray,
        vectors: Sequence[int],
        activations: np.ndarray | None = None,
        results: int = 0,
        images: int = 1,
        counts_as: str | None = None,
        patterns: int = 0,
        filler: int = 0,
    ) -> Run:
        """Execute a program, file the records of the tiles that it pushed out of the array, and count it.

        ``counts_as`` names the counter of its cycles; None for instrumentation. Of the weight beats of each image, ``patterns`` and
        ``filler`` are those that come from no memory; see ``Activity``.
        """
        if activations is None:
            activations = np.zeros((0, self.config.rows), np.uint8)
        sequence = self._inside + tile_pass.repeated(self.passes(images))
        leaving = sequence[: -cycles.FLUSH_TILES]
        program = Program(
            commands=commands,
            weights=weights,
            activations=activations,
            faults=faults,
            results=results,
            readback=int(leaving.readback.sum()) * self.config.rows,
            signatures=int(leaving.signature.sum()),
            images=images,
        )
        run = self.execute(program, expected_cycles=cycles.program_cycles(self.config, list(vectors)))
        if counts_as is not None:
            events = self._counters.events + events_of(self.config, self._activity(program, run, patterns, filler))
            spent = getattr(self._counters, counts_as) + run.busy_cycles
            self._counters = replace(self._counters, **{counts_as: spent}, events=events)
        self._inside = sequence[-cycles.FLUSH_TILES :]
        reported = leaving.signature
        for index in np.unique(leaving.layer[reported]):
            if index != NONE:
                # Of several images, the last one's records stay.
                mine = leaving.layer[reported] == index
                self._records[index][leaving.tile[reported][mine]] = run.signatures[mine]
        return run

    def _collect_records(self, layer: WeightedLayer, tiles: np.ndarray) -> ScanRecords:
        """Return the records (..., tiles, bytes) of a layer's tiles, summed over the tiles of the reduction: fields (..., N)."""
        gemm = self._weights_of[layer.name]
        beats = streams.records_of(self.config, np.ascontiguousarray(tiles))
        row_tiles = -(-gemm.reduction // self.config.rows)
        lead = tiles.shape[:-2]

        def per_output(values: np.ndarray) -> np.ndarray:
            groups = gemm.groups * math.prod(lead)
            summed = values.reshape(groups, -1, row_tiles, *values.shape[1:]).sum(axis=2)
            flat = summed.reshape(groups, -1, *values.shape[2:])[:, : gemm.outputs]
            return flat.reshape(*lead, gemm.groups * gemm.outputs, *values.shape[2:])

        return ScanRecords(
            count=np.full((*lead, gemm.groups * gemm.outputs), gemm.reduction, dtype=np.int64),
            **{name: per_output(values) for name, values in beats.items()},
        )

    def _activity(self, program: Program, run: Run, patterns: int, filler: int) -> Activity:
        """Return what crossed the streams: beats as they were counted there, and what the accepted commands say of them."""
        command = streams.command_fields(program.commands)
        weights, images = command["rows"] * command["cols"], program.images

        def total(values: np.ndarray) -> int:
            return images * int(values.sum())

        return Activity(
            tiles=run.accepted["commands"],
            weight_beats=run.accepted["weights"],
            pattern_beats=images * patterns,
            filler_beats=images * filler,
            vectors=run.accepted["activations"],
            products=total(command["vectors"] * weights),
            result_beats=len(run.results),
            results=total(command["vectors"] * command["last"] * command["cols"]),
            # These leave with the second tile from now; ``execute`` refuses a program that puts out another number of beats.
            readback_beats=total(command["readback"] * self.config.rows),
            record_beats=total(command["signature"]),
            signature_words=total(command["signature"] * weights),
        )


@dataclass(frozen=True, eq=False)
class _Plan:
    """The tiles of a program as arrays (tiles,)."""

    vectors: np.ndarray
    vectors_from: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    first: np.ndarray
    last: np.ndarray
    weight_tile: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def of(cls, sequence: list[Tile], weight_tiles: int) -> _Plan:
        return cls(
            vectors=np.array([tile.vectors for tile in sequence]),
            vectors_from=np.array([tile.m0 for tile in sequence]),
            rows=np.array([tile.k1 - tile.k0 for tile in sequence]),
            cols=np.array([tile.n1 - tile.n0 for tile in sequence]),
            first=np.array([tile.first for tile in sequence]),
            last=np.array([tile.last for tile in sequence]),
            weight_tile=np.arange(len(sequence)) % weight_tiles,
        )


@lru_cache(maxsize=512)
def _tiles(config: ArrayConfig, gemm: Gemm) -> _Plan:
    return _Plan.of(list(tiles(config, gemm)), len(_weight_tiles(config, gemm)))


@lru_cache(maxsize=512)
def _weight_tiles(config: ArrayConfig, gemm: Gemm) -> _Plan:
    sequence = list(weight_tiles(config, gemm))
    return _Plan.of(sequence, len(sequence))


def _loading(layer: WeightedLayer) -> Gemm:
    """Return the layer's matrix product without vectors: what loading its weights depends on."""
    groups = getattr(layer, "groups", 1)
    outputs, reduction = layer.matrix.shape
    return Gemm(groups, outputs // groups, reduction, 1)


def _unfold(layer: WeightedLayer, activations: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return activation vectors, int8 (batch, groups, M, K), and the shape of one image's accumulators."""
    outputs, reduction = layer.matrix.shape
    if not isinstance(layer, Convolution):
        return activations[:, None, None, :], (outputs,)
    (pad_y, pad_x), (stride_y, stride_x) = layer.padding, layer.stride
    padded = np.pad(activations, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, layer.weight.shape[2:], axis=(2, 3))[:, :, ::stride_y, ::stride_x]
    batch, _, height, width, kernel_y, kernel_x = windows.shape
    grouped = windows.reshape(batch, layer.groups, layer.weight.shape[1], height, width, kernel_y, kernel_x)
    vectors = grouped.transpose(0, 1, 3, 4, 2, 5, 6).reshape(batch, layer.groups, height * width, reduction)
    return vectors, (outputs, height, width)
