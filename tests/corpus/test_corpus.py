"""Every item of the shared corpus through the conversion: one warm worker a format, one session fixture.

The score is written beside the peers' to benchmarks/results/corpus_score.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus_score import RESULTS, families, score_corpus, table, write
from benchmarks.corpus_worker import KINDS, Status

pytestmark = [pytest.mark.corpus, pytest.mark.slow]

Item = Mapping[str, Any]

# Layers of Caffe's descendants, which Caffe itself does not know: refused by name.
BEYOND_CAFFE = frozenset({"Accum", "DataAugmentation", "Interp"})


@pytest.fixture(scope="session")
def score(corpus: Path) -> Mapping[str, Any]:
    record = score_corpus(corpus)
    write(record, RESULTS)
    print(table(record["families"]))  # noqa: T201  (shown where a test fails)
    return record


def of_status(score: Mapping[str, Any], *wanted: Status) -> list[str]:
    return [f"{one['name']}: {one['detail']}" for one in score["items"] if one["status"] in wanted]


def test_every_item_was_tried(score: Mapping[str, Any], corpus: Path) -> None:
    import json

    manifest = json.loads((corpus / "manifest.json").read_text())
    expected = {item["name"] for item in manifest if item["kind"] in KINDS}
    assert {one["name"] for one in score["items"]} == expected


def test_nothing_wrong_is_called_right(score: Mapping[str, Any]) -> None:
    assert of_status(score, Status.WRONG) == []


def test_nothing_crashes(score: Mapping[str, Any]) -> None:
    assert of_status(score, Status.CRASHED) == []


@pytest.mark.parametrize("kind", KINDS)
def test_items_with_references_pass(score: Mapping[str, Any], kind: str) -> None:
    """All of them, except files that their own framework rejects."""
    scored = [one for one in score["items"] if one["kind"] == kind and one["has_io"]]
    assert any(one["status"] == Status.PASSED for one in scored)
    missed = [
        f"{one['name']}: {one['detail']}"
        for one in scored
        if one["status"] not in (Status.PASSED, Status.REJECTED) and not beyond_caffe(one)
    ]
    assert missed == []


def beyond_caffe(one: Item) -> bool:
    """Whether the item is refused, and for a layer that is not Caffe's own."""
    refused = one["kind"] == "caffe" and one["status"] == Status.REFUSED
    return refused and any(f": {layer}: " in one["detail"] for layer in BEYOND_CAFFE)


def test_no_family_falls_behind_the_peers(score: Mapping[str, Any]) -> None:
    """Caffe's apart: their peer is OpenCV, which reads its descendants' layers too."""
    behind = {
        family: count
        for family, count in families([one for one in score["items"] if one["kind"] != "caffe"]).items()
        if count.get("scored_passed", 0) < count.get("peers_passed", 0)
    }
    assert behind == {}
