"""What the CUDA check measures, in the order of its importance, and how the time is shared out.

The arithmetic for 480 s on an H200, from estimates: a network has 12 cells of fp32 and 6 of fp16, and the
baseline twice. Cells that differ only in how they are called share a session: 12 sessions and the baseline's,
each made once (0.5 to 2 s), and a twin of the baseline for each heat, 17 in all: 9 to 34 s a network. Each
serves all four batch sizes, at each of which the convolutions' plans are made anew (0.3 to 1 s): 17 to 56 s.
16 rounds of a cell take about 0.25 s at a batch size, a warm-up 0.1 s: 28 s. Two energies take 12 s. So a
network takes 66 to 130 s, five 330 to 650 s; with a session for each cell and batch size, 80 a network, each
would take 60 to 240 s more. Peaks and the processes' starts take 20 to 30 s. What comes last may not be
reached; it is listed then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.bench.cuda.contract import LEAST_ENERGY_WINDOW_S, matrix
from pipeline.bench.cuda.course import Energy
from pipeline.bench.cuda.precision import Precision
from pipeline.bench.records import CudaSettings

BATCHES: Final = (1, 8, 64, 256)
ENERGY_BATCH: Final = 64
REACH_NETWORK: Final = "resnet50"
REACH_BATCHES: Final = (1, 64)
PRECISIONS: Final[tuple[Precision, ...]] = ("fp16", "fp32")
# Shares of the time. What the reach is read off comes first and must not be cut short.
REACH_WEIGHT: Final = 2.0
COMPILED_WEIGHT: Final = 0.5
COMPILED_REACH_WEIGHT: Final = 1.0
NO_ENERGY: Final = Energy()


@dataclass(frozen=True)
class Part:
    """Cells of one network that are measured together."""

    network: str
    batches: tuple[int, ...]
    cells: tuple[CudaSettings, ...]
    weight: float = 1.0
    energy: Energy = NO_ENERGY

    @property
    def title(self) -> str:
        """For the list of what was not reached."""
        kinds = ", ".join(dict.fromkeys(_kind(cell) for cell in self.cells))
        return f"{self.network}, {kinds}, batch {', '.join(str(batch) for batch in self.batches)}"

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Of its cells."""
        return tuple(dict.fromkeys(cell.precision for cell in self.cells))


def plan(networks: Sequence[str], *, tensorrt: bool, torch: bool) -> tuple[Part, ...]:
    """All parts: the network of the reach first, then the others, then the other compilers.

    Args:
        networks: names, the quick ones first: what they leave over goes to the rest.
        tensorrt: whether the TensorRT provider's libraries are there.
        torch: whether PyTorch is.
    """
    ordered = sorted(networks, key=lambda name: name != REACH_NETWORK)
    cells = [cell for precision in PRECISIONS for cell in matrix(precision=precision, tensorrt=tensorrt)]
    own = tuple(cell for cell in cells if cell.runtime == "onnxruntime" and not cell.stock)
    compiled = [
        tuple(cell for cell in cells if cell.runtime == runtime)
        for runtime, there in (("torch.compile", torch), ("tensorrt", tensorrt))
        if there
    ]
    deployed = tuple(CudaSettings(precision=p, graph=True, layout="NHWC", tf32=True) for p in PRECISIONS)
    energy = Energy(deployed, ENERGY_BATCH, LEAST_ENERGY_WINDOW_S)
    return (
        *(Part(n, BATCHES, own, REACH_WEIGHT if n == REACH_NETWORK else 1.0, energy) for n in ordered),
        *(
            Part(
                n,
                REACH_BATCHES if n == REACH_NETWORK else BATCHES,
                others,
                COMPILED_REACH_WEIGHT if n == REACH_NETWORK else COMPILED_WEIGHT,
            )
            for others in compiled
            for n in ordered
        ),
        *(
            Part(n, tuple(b for b in BATCHES if b not in REACH_BATCHES), others, COMPILED_WEIGHT)
            for others in compiled
            for n in ordered
            if n == REACH_NETWORK
        ),
    )


def share_s(left_s: float, parts: Sequence[Part]) -> float:
    """Seconds that the first of the remaining ``parts`` may take of those left."""
    return left_s * parts[0].weight / sum(part.weight for part in parts)


def _kind(cell: CudaSettings) -> str:
    return "the matrix" if cell.runtime == "onnxruntime" else cell.runtime
