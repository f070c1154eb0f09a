"""What the CUDA check measures, in the order of its importance, and how the time is shared out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from pipeline.bench.cuda import LEAST_ENERGY_WINDOW_S, matrix
from pipeline.bench.cuda_child import needs_tf32_off
from pipeline.bench.cuda_precision import Precision
from pipeline.bench.records import CudaSettings

BATCHES: Final = (1, 8, 64, 256)
ENERGY_BATCH: Final = 64
REACH_NETWORK: Final = "resnet50"
REACH_BATCHES: Final = (1, 64)
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16")
# Shares of the time. What the reach is read off comes first and must not be cut short.
REACH_WEIGHT: Final = 2.0
TORCH_WEIGHT: Final = 0.8
ENERGY_WEIGHT: Final = 0.4


@dataclass(frozen=True)
class Part:
    """Cells of one network and precision that one child process measures."""

    network: str
    precision: Precision
    batches: tuple[int, ...]
    cells: tuple[CudaSettings, ...]
    weight: float = 1.0
    energy_window_s: float = 0.0

    @property
    def title(self) -> str:
        """For the list of what was not reached."""
        kinds = "energy" if self.energy_window_s else _kind(self.cells[0])
        batches = ", ".join(str(batch) for batch in self.batches)
        return f"{self.network} {self.precision}, {kinds}, batch {batches}"


def plan(networks: Sequence[str], *, tensorrt: bool, torch: bool) -> tuple[Part, ...]:
    """All parts. A child that is killed says nothing, so ``torch.compile`` never shares one with others.

    Args:
        networks: names, the quick ones first: what they leave over goes to the rest.
        tensorrt: whether the TensorRT provider's libraries are there.
        torch: whether PyTorch is.
    """
    first: list[Part] = []
    rest: list[Part] = []
    compiled: list[Part] = []
    energy: list[Part] = []
    for name in networks:
        for precision in PRECISIONS:
            for cells in _by_process(matrix(precision=precision, tensorrt=tensorrt)):
                if cells[0].runtime == "torch.compile":
                    compiled += [Part(name, precision, BATCHES, cells, TORCH_WEIGHT)] if torch else []
                elif name == REACH_NETWORK:
                    others = tuple(batch for batch in BATCHES if batch not in REACH_BATCHES)
                    first.append(Part(name, precision, REACH_BATCHES, cells, REACH_WEIGHT))
                    rest.append(Part(name, precision, others, cells))
                else:
                    rest.append(Part(name, precision, BATCHES, cells))
            deployed = CudaSettings(precision=precision, graph=True, layout="NHWC")
            energy.append(
                Part(name, precision, (ENERGY_BATCH,), (deployed,), ENERGY_WEIGHT, LEAST_ENERGY_WINDOW_S)
            )
    return (*first, *rest, *compiled, *energy)


def share_s(left_s: float, parts: Sequence[Part]) -> float:
    """Seconds that the first of the remaining ``parts`` may take of those left."""
    return left_s * parts[0].weight / sum(part.weight for part in parts)


def _by_process(cells: Sequence[CudaSettings]) -> list[tuple[CudaSettings, ...]]:
    """Cells that may run in one process together, the one with the baseline first."""
    ordered = sorted(cells, key=lambda cell: (_rank(cell), not cell.stock))
    return [tuple(group) for _rank_, group in groupby(ordered, key=_rank)]


def _rank(cell: CudaSettings) -> int:
    return 2 if cell.runtime == "torch.compile" else 1 if needs_tf32_off(cell) else 0


def _kind(cell: CudaSettings) -> str:
    return ("the matrix", "TF32 off", "torch.compile")[_rank(cell)]
