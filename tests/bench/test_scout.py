"""What is expected of candidates from main effects."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bench.candidates import cuda_candidates
from pipeline.bench.contender import Contender
from pipeline.bench.scout import expected, numerics, quickest_graphs, runtime_of, with_most_threads
from pipeline.config import TuneConfig


def combinations(graphs: list[str], threads: list[int], kind: str = "onnx") -> list[Contender]:
    return [
        Contender.model_validate(
            {"name": f"{kind} {g} {t}", "kind": kind, "model": g, "threads": t, "allow_spinning": t > 1}
        )
        for g in graphs
        for t in threads
    ]


@given(
    st.lists(st.floats(0.1, 100.0), min_size=1, max_size=5),
    st.lists(st.floats(0.1, 10.0), min_size=1, max_size=4),
)
def test_a_product_of_effects_is_predicted_exactly(of_graph: list[float], of_threads: list[float]) -> None:
    graphs = [f"g{k}" for k in range(len(of_graph))]
    candidates = combinations(graphs, list(range(1, len(of_threads) + 1)))
    truth = {c.name: of_graph[int(c.model[1:])] * of_threads[c.threads - 1] for c in candidates}
    graph_ms = {key: truth[c.name] for key, c in with_most_threads(candidates).items()}
    (heat,) = quickest_graphs(candidates, graph_ms)
    assert len(heat) == len(of_threads)
    found = expected(candidates, graph_ms, {name: truth[name] for name in heat})
    assert found == pytest.approx({name: level / min(truth.values()) for name, level in truth.items()})


def test_the_most_threads_stand_for_a_graph_and_spinning_goes_before_waiting() -> None:
    waiting = Contender(name="waiting", kind="onnx", model="m", threads=2)
    spinning = Contender(name="spinning", kind="onnx", model="m", threads=2, allow_spinning=True)
    one = Contender(name="one", kind="onnx", model="m")
    assert with_most_threads([spinning, waiting, one]) == {numerics(one): spinning}


def test_runtimes_are_scouted_apart() -> None:
    candidates = combinations(["a", "b"], [1, 2]) + combinations(["a", "b"], [1, 2], "openvino")
    graph_ms = {("onnx", "a", "all"): 1.0, ("onnx", "b", "all"): 2.0}
    graph_ms |= {("openvino", "a", "all"): 9.0, ("openvino", "b", "all"): 3.0}
    assert quickest_graphs(candidates, graph_ms) == [
        ["onnx a 1", "onnx a 2"],
        ["openvino b 1", "openvino b 2"],
    ]
    levels = {"onnx a 1": 4.0, "onnx a 2": 1.0, "openvino b 1": 3.0, "openvino b 2": 3.0}
    found = expected(candidates, graph_ms, levels)
    assert found["onnx b 1"] == 8.0
    assert found["openvino a 1"] == 3.0


@pytest.mark.parametrize("known", [{}, {("onnx", "a", "all"): 1.0}])
def test_what_is_not_known_is_not_predicted(known: dict[tuple[str, str, str], float]) -> None:
    candidates = combinations(["a", "b"], [1, 2])
    levels = {"onnx a 2": 1.0} if known else {}
    assert expected(candidates, known, levels) == dict.fromkeys(levels, 1.0)


def test_a_gpu_races_apart_and_each_of_its_options_is_compared_for_itself() -> None:
    on_gpu = cuda_candidates({"raw": Path("m")}, TuneConfig())
    on_cpu = Contender(name="cpu", kind="onnx", model="m")
    assert {runtime_of(one) for one in on_gpu} == {"cuda"}
    assert runtime_of(on_cpu) == "onnxruntime"
    assert len(with_most_threads([on_cpu, *on_gpu])) == 5  # two layouts, with TF32 and without
