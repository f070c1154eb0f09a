"""What a run says of its bundles: the error as a multiple of the source's own, and where each layer went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import run
from pipeline.records import RunRecord
from targets.manifest import read_manifest


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    from tests.pipeline.conftest import small_net, write_config

    folder = tmp_path_factory.mktemp("run")
    small_net(folder / "net.onnx")
    return run(write_config(folder, "null"))


def test_the_conversion_is_certified_in_float64(record: RunRecord) -> None:
    truth = record.parity_detail.source_float64
    assert truth is not None
    assert truth.state == "exact"  # the file's own graph and the converted one, evaluated in float64
    assert truth.feeds
    page = Path(record.report).read_text(encoding="utf-8")
    assert "The conversion is exact to" in page
    assert "both in float64" in page


def test_every_question_has_its_multiple(record: RunRecord) -> None:
    assert [one.question for one in record.parity] == [
        "source_vs_converted", "before_vs_after", "reference_vs_artefact:onnxruntime",
    ]  # fmt: skip
    for one in record.parity:
        assert one.error_multiple is not None
        assert 0 < one.error_multiple < 10


def test_a_bundle_gives_its_error_as_a_multiple_of_the_sources(record: RunRecord) -> None:
    (bundle,) = record.bundles
    assert bundle.error is not None
    assert bundle.source_error is not None
    assert bundle.error_multiple == pytest.approx(bundle.error / bundle.source_error)
    assert bundle.error <= 2 * bundle.source_error + 1e-6
    manifest = read_manifest(Path(bundle.path))
    assert manifest.gate.source_error_factor == 2.0
    assert manifest.verification is not None
    assert manifest.verification.error_multiple == bundle.error_multiple
    stored = json.loads((Path(record.out) / "report.json").read_text(encoding="utf-8"))
    assert stored["record"]["bundles"][0]["error_multiple"] == bundle.error_multiple


def test_every_source_layer_has_its_place_in_the_target(record: RunRecord) -> None:
    (bundle,) = record.bundles
    places = {place.layer: place.target for place in bundle.layer_map}
    assert list(places) == [layer.name for layer in record.convert.layers]
    (conv,) = places["conv"]
    assert (conv.op, conv.padding) == ("Conv", "[1, 1] ... [1, 1]")
    assert [shape for _, shape in conv.weights] == [(4, 3, 3, 3), (4,)]
    assert conv.axes == ((0, 1, 2, 3), None)
    assert [one.name for one in places["bn"]] == [conv.name]  # folded into it
    assert [one.op for one in places["dense"]] == ["Gemm"]
    page = Path(record.report).read_text(encoding="utf-8")
    assert "The same layers in the targets" in page
    held = read_manifest(Path(bundle.path)).layers
    assert held[0]["padding_in_numbers"] == "[1, 1] ... [1, 1]"
    assert [one["name"] for one in held[0]["target"]] == [conv.name]
