"""The page of one comparison and its plots: complete in itself, and nothing of a model is read as markup."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest

from pipeline.config import GateConfig
from pipeline.parity.feature_maps import FeatureMaps
from pipeline.parity.metrics import compare, worst_elements
from pipeline.records import (
    ComparisonRecord,
    DivergenceRecord,
    LayerStudyRow,
    Moments,
    ParityRecord,
)
from pipeline.report.parity_page import render_parity
from pipeline.report.parity_plots import error_growth, image, pictures, strip

EVIL = "<script>alert(1)</script>"
A = np.linspace(-1, 1, 10).reshape(2, 5)
B = A + np.array([0, 0, 0.5, 0, 0])


def rows(count: int = 5) -> tuple[LayerStudyRow, ...]:
    spread = {"source": Moments(mean=-82.8, variance=7827.31), "converted": Moments(mean=0.00312, variance=0)}
    return tuple(
        LayerStudyRow(
            layer=f"{EVIL}{i}",
            op="Conv2D",
            tensor_before=f"t{i}",
            tensor_after=f"t{i}",
            shape=(1, 3, 8, 8),
            moments=spread,
            errors={"source": 1e-7 * (i + 1), "converted": 2e-7 * (i + 1), "optimized": float("inf")},
            source_vs_converted=compare(A, B),
            digits=("mean -82.80 is 0.00 in converted: they are 82.8 apart",) if i == 0 else (),
        )
        for i in range(count)
    )


@pytest.fixture
def record() -> ParityRecord:
    one = ComparisonRecord(
        question="reference_vs_artefact",
        a=EVIL,
        b="b.onnx",
        feed="zeros/batch=1",
        output=EVIL,
        metrics=compare(A, B),
        passed=False,
        reasons=(EVIL,),
        worst=worst_elements(A, B),
    )
    return ParityRecord(
        status="gate_not_met",
        passed=False,
        gate=GateConfig().model_dump(),
        comparisons=(one,),
        accuracy=(),
        metrics=one.metrics,
        first_divergence=DivergenceRecord(
            node=EVIL, tensor="t", cause="activation", detail=EVIL, folder="/out/divergence"
        ),
        runtime_settings={},
        notices=(EVIL,),
        layers=rows(),
        layers_feed="the first example",
        seconds=1.0,
    )


def test_the_page_holds_everything_and_no_markup_of_the_models(record, tmp_path) -> None:
    maps = (FeatureMaps(EVIL, 0.0, 1.0, {"a": np.zeros((2, 8, 8), np.uint8)}),)
    page = render_parity(record, maps, tmp_path / "new", f"{EVIL} and b").read_text()
    assert "<script" not in page
    assert page.count("<svg") == 1
    assert "/out/divergence" in page
    assert "-82.80" in page
    assert "7827.31" in page
    assert "0.0031" in page
    assert "[0, 2]" in page  # the worst element's place
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    held = json.loads((tmp_path / "new" / "parity.json").read_text())
    assert ParityRecord.model_validate(held) == record


def test_without_layers_there_is_neither_plot_nor_table(record, tmp_path) -> None:
    bare = record.model_copy(update={"layers": (), "first_divergence": None})
    page = render_parity(bare, (), tmp_path, "a and b").read_text()
    assert "<svg" not in page
    assert "Layer by layer" not in page
    assert "Worst elements" in page


def test_growth_is_drawn_for_the_sides_that_have_figures() -> None:
    plot = error_growth(rows(), 2e-5)
    assert plot is not None
    assert "source: 5.0e-07 at the end" in plot
    assert "converted: 1.0e-06 at the end" in plot
    assert "optimized" not in plot  # infinite throughout: nothing to draw
    assert error_growth(rows(1), 2e-5) is None
    assert error_growth((), 2e-5) is None


def test_maps_stand_side_by_side() -> None:
    maps = np.stack([np.full((4, 6), value, np.uint8) for value in (10, 200)])
    joined = strip(maps)
    assert joined.shape == (4, 14)
    assert joined[0, 0] == 10
    assert joined[0, 6] == 255
    assert joined[0, 8] == 200


def test_a_picture_is_a_png_of_its_pixels() -> None:
    image_module = pytest.importorskip("PIL.Image")
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    tag = image(grey, EVIL)
    assert "<script" not in tag
    data = re.search(r"base64,([^\"]+)", tag)
    assert data is not None
    opened = image_module.open(io.BytesIO(base64.b64decode(data[1])))
    np.testing.assert_array_equal(np.asarray(opened), grey)


def test_sides_come_in_their_order() -> None:
    one = FeatureMaps(
        "x", 0, 1, {"optimized": np.zeros((1, 4, 4), np.uint8), "source": np.ones((1, 4, 4), np.uint8)}
    )
    assert [side for side, _ in pictures([one])[0].strips] == ["source", "optimized"]
