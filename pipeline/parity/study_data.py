"""Compare contenders on the user's data: outputs, accuracy, and whether they name the same class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optim.contract import Outputs, TensorSpec
from optim.errors import UserError
from pipeline.config import GateConfig
from pipeline.feeds import Dataset
from pipeline.parity import metrics
from pipeline.parity.answers import run_dataset
from pipeline.parity.compare import Contender, Question, Truth, compare_pair, error_of, recovered
from pipeline.parity.heads import comparable
from pipeline.parity.verdict import judge
from pipeline.records import AccuracyRecord, ComparisonRecord
from targets.reference import Float64Session

FLOAT64_EXAMPLES = 16  # of the user's data that are also evaluated in float64


def study_data(
    dataset: Dataset,
    specs: Sequence[TensorSpec],
    names: tuple[str, ...],
    contenders: tuple[Contender, Contender, Contender],
    runs: tuple[Outputs, Outputs, Outputs],
    truth_session: Float64Session | None,
    gate: GateConfig,
) -> tuple[list[ComparisonRecord], tuple[AccuracyRecord, ...], list[str]]:
    """Comparisons on all examples at once, accuracy and agreement of each contender, and missed bounds.

    ``runs``: what each contender answered to the data.
    """
    source, before, _ = contenders
    head_runs: tuple[Outputs, ...]
    truth, head_runs = None, runs
    if truth_session is not None:
        count = min(FLOAT64_EXAMPLES, dataset.examples)
        truth = Truth(run_dataset(truth_session, _first(dataset, count), specs), before.heads)
        head_runs = tuple({k: v[:count] if v.ndim else v for k, v in run.items()} for run in runs)
    label = f"data[0:{dataset.examples}]"
    records: list[ComparisonRecord] = []
    questions: tuple[tuple[Question, int, int], ...] = (
        ("source_vs_converted", 0, 1),
        ("before_vs_after", 1, 2),
    )
    for question, i, j in questions:
        a, b = contenders[i], contenders[j]
        errors = {}
        if truth is not None:
            for what in comparable(head_runs[i], head_runs[j], a.heads, b.heads, names):
                own = error_of(what, truth, head_runs[j], b.heads, names)
                theirs = error_of(what, truth, head_runs[0], source.heads, names)
                if theirs is None:
                    theirs = error_of(recovered(what), truth, head_runs[0], source.heads, names)
                errors[what] = (theirs, own)
        for record in compare_pair(question, label, names, a, b, runs[i], runs[j], gate):
            theirs, own = errors.get(record.output, (None, None))
            passed, reasons = judge(record.metrics, gate, theirs, own)
            records.append(
                record.model_copy(
                    update={"source_error": theirs, "b_error": own, "passed": passed, "reasons": reasons}
                )
            )
    accuracies, missed = class_results(dataset, names, contenders, runs, gate)
    return records, accuracies, missed


def _first(dataset: Dataset, count: int) -> Dataset:
    feeds = {k: v if k in dataset.shared else v[:count] for k, v in dataset.feeds.items()}
    return replace(dataset, feeds=feeds, labels=None)


def class_output(names: Sequence[str], run: Outputs, examples: int) -> str | None:
    """The output that holds one row of class scores an example: the first [N, classes] of floats."""
    for name in names:
        value = run[name]
        rows = value.shape[0] == examples if value.ndim else False
        if rows and value.dtype.kind == "f" and value.size // examples == max(value.shape[1:], default=1) > 1:
            return name
    return None


def class_results(
    dataset: Dataset,
    names: Sequence[str],
    contenders: Sequence[Contender],
    runs: Sequence[Outputs],
    gate: GateConfig,
) -> tuple[tuple[AccuracyRecord, ...], list[str]]:
    """Accuracy and top-1 agreement with the source, and the bounds that are missed.

    Raises:
        UserError: labels are given, but no output holds class scores for them.
    """
    name = class_output(names, runs[0], dataset.examples)
    if name is None:
        if dataset.labels is not None:
            shapes = {n: list(runs[0][n].shape) for n in names}
            raise UserError(
                f"labels are given, but no output holds class scores: {shapes}",
                where=dataset.source,
                expected="an output of shape [examples, classes]",
            )
        return (), []
    records, reasons = [], []
    for contender, run in zip(contenders, runs, strict=True):
        scored = None if dataset.labels is None else metrics.accuracy(run[name], dataset.labels)
        agreement = metrics.top1_agreement(runs[0][name], run[name])
        records.append(
            AccuracyRecord(
                contender=contender.name,
                examples=dataset.examples,
                accuracy=scored,
                top1_agreement=agreement,
                top5_agreement=metrics.topk_agreement(runs[0][name], run[name], k=5),
            )
        )
        if agreement < gate.top1_agreement:
            reasons.append(
                f"{contender.name} names the source's class on {agreement:.2%} of "
                f"{dataset.examples} examples, "
                f"below {gate.top1_agreement:.2%}"
            )
        if gate.min_accuracy is not None and scored is not None and scored < gate.min_accuracy:
            reasons.append(f"{contender.name} has accuracy {scored:.4f}, below {gate.min_accuracy:.4f}")
    return tuple(records), reasons
