"""The systolic array: PEs, and the skew registers that let everything outside see it as one row-parallel, column-parallel unit."""

from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from epsilon.config import ArrayConfig
from hdl.layouts import FaultWord
from hdl.pe import PSUM_BITS, ChainWord, Operation, ProcessingElement, pe_signature

__all__ = ["PE_MODULE", "SharedModules", "SystolicArray", "delayed"]

PE_MODULE = "processing_element"


class SharedModules:
    """Elaboration platform of the Verilog export: the array refers to one module ``PE_MODULE`` instead of carrying a copy per PE.

    Amaranth's own simulator elaborates without a platform and so always gets real PEs.
    """


class SystolicArray(wiring.Component):
    """``rows`` x ``cols`` PEs; activations move right, partial sums and weights move down.

    Inputs of one cycle belong together, and so do outputs of one cycle: the triangles of skew registers are inside.

    Members
    -------
    op : Operation of all PEs in this (skewed) cycle.
    activations : signed(8) per row.
    chain_i : ChainWord per column, entering the top row at a shift.
    faults_i : FaultWord per column, likewise; only with ``config.fault_injection``.
    psums : signed(32) per column, the sums of the vector that entered ``latency`` cycles before.
    chain_o : ChainWord per column, leaving the bottom row at a shift ``latency - 1`` cycles before.

    Timing
    ------
    ``latency`` = rows + cols cycles.
    """

    def __init__(self, config: ArrayConfig):
        self._config = config
        members = {
            "op": In(Operation),
            "activations": In(data.ArrayLayout(signed(8), config.rows)),
            "chain_i": In(data.ArrayLayout(ChainWord, config.cols)),
            "psums": Out(data.ArrayLayout(signed(PSUM_BITS), config.cols)),
            "chain_o": Out(data.ArrayLayout(ChainWord, config.cols)),
        }
        if config.fault_injection:
            members["faults_i"] = In(data.ArrayLayout(FaultWord, config.cols))
        super().__init__(members)

    @property
    def config(self) -> ArrayConfig:
        return self._config

    @property
    def latency(self) -> int:
        return self._config.rows + self._config.cols

    def elaborate(self, platform):
        m = Module()
        rows, cols = self._config.rows, self._config.cols
        grid = [[self._processing_element(m, platform, r, c) for c in range(cols)] for r in range(rows)]

        def wire(target, source):
            m.d.comb += target.eq(source)

        for r in range(rows):
            wire(grid[r][0].op_i, delayed(m, f"op_row{r}", self.op, Operation, r))
            wire(grid[r][0].activation_i, delayed(m, f"activation_row{r}", self.activations[r], signed(8), r, reset_less=True))
            for c in range(1, cols):
                wire(grid[r][c].op_i, grid[r][c - 1].op_o)
                wire(grid[r][c].activation_i, grid[r][c - 1].activation_o)
        for c in range(cols):
            wire(grid[0][c].chain_i, delayed(m, f"chain_col{c}", self.chain_i[c], ChainWord, c, reset_less=True))
            if self._config.fault_injection:
                wire(grid[0][c].faults_i, delayed(m, f"faults_col{c}", self.faults_i[c], FaultWord, c, reset_less=True))
            for r in range(1, rows):
                wire(grid[r][c].psum_i, grid[r - 1][c].psum_o)
                wire(grid[r][c].chain_i, grid[r - 1][c].chain_o)
                if self._config.fault_injection:
                    wire(grid[r][c].faults_i, grid[r - 1][c].faults_o)
            bottom = grid[rows - 1][c]
            wire(self.psums[c], delayed(m, f"psum_col{c}", bottom.psum_o, signed(PSUM_BITS), cols - 1 - c, reset_less=True))
            wire(self.chain_o[c], delayed(m, f"scan_col{c}", bottom.chain_o, ChainWord, cols - 1 - c, reset_less=True))
        return m

    def _processing_element(self, m: Module, platform, row: int, col: int):
        name = f"pe_{row}_{col}"
        if not isinstance(platform, SharedModules):
            m.submodules[name] = pe = ProcessingElement(self._config)
            return pe
        wires = pe_signature(self._config).create(path=(name,))
        ports = {}
        for (port,), member, signal in wires.signature.flatten(wires):
            ports[f"{'i' if member.flow is In else 'o'}_{port}"] = signal
        m.submodules[name] = Instance(PE_MODULE, i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
        return wires


def delayed(m: Module, name: str, value, shape, cycles: int, *, reset_less: bool = False):
    """Return the value of ``cycles`` cycles ago; ``reset_less`` where a stale value does no harm."""
    for stage in range(cycles):
        register = Signal(shape, name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
