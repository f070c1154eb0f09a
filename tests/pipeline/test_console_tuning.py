"""What a terminal says of a race: which device the bundle will be made for, where a GPU took part."""

from __future__ import annotations

import pytest

from pipeline.bench.records import TuneRecord
from tests.pipeline.test_console_benchmark import benchmark, said
from tests.pipeline.test_tuned_settings import ON_CPU, ON_GPU, race


@pytest.mark.parametrize(
    ("tune", "words"),
    [
        (race(ON_GPU, ON_CPU, ON_GPU), "an onnxruntime bundle is made for the GPU, which won, unless"),
        (
            race(ON_CPU, ON_CPU, ON_GPU),
            "made for the CPU, since the GPU did not win, unless its option device",
        ),
        (race(ON_CPU), ""),
    ],
)
def test_the_device_of_the_bundle_is_said(tune: TuneRecord, words: str) -> None:
    text = said(benchmark(tune=tune))
    assert words in text
    assert ("an onnxruntime bundle is made for" in text) == bool(words)
    assert "onnxruntime onnxruntime" in text  # the CPU's row: runtime, settings
    if words:
        assert "cuda cuda" in text
