"""Every ONNX graph of the corpus that the oracle can run keeps its outputs through ``canonical``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from optim.errors import UnsupportedModelError
from optim.model import load, signature
from optim.recipes import recipe_named
from optim.schedule import optimize
from optim.verify import difference, probes_for
from tests.optim.table import Unoptimised

pytestmark = [pytest.mark.corpus]

_SHARDS = 8
_LARGEST_BYTES = 8_000_000  # full architectures are left to the benchmarks


@pytest.mark.parametrize("shard", range(_SHARDS))
def test_outputs_are_kept(corpus: Path, shard: int) -> None:
    items = [
        i
        for i in json.loads((corpus / "manifest.json").read_text())
        if i["kind"] == "onnx" and i["family"] != "onnx_light"
    ]
    compared = 0
    for item in items[shard::_SHARDS]:
        folder = corpus / item["dir"]
        if (folder / "model.onnx").stat().st_size > _LARGEST_BYTES:
            continue
        model = load(folder / "model.onnx")
        shape = signature(model)
        supplied = None
        if (folder / "io.npz").is_file():
            with np.load(folder / "io.npz", allow_pickle=False) as arrays:
                given = {k.removeprefix("in|"): arrays[k] for k in arrays.files if k.startswith("in|")}
            supplied = given if set(given) == {s.name for s in shape[0]} else None
        probes = probes_for(model, supplied, batches=(1, 2))
        oracle, original = Unoptimised(), load(folder / "model.onnx")
        try:
            ledger = optimize(model, recipe_named("canonical"), oracle=oracle, probes=probes)
        except UnsupportedModelError:
            continue  # the oracle itself cannot run it: nothing to compare with
        assert ledger.nodes_after <= ledger.nodes_before, item["name"]
        assert signature(model) == shape, item["name"]
        assert not any(r.rolled_back for r in ledger.records), (
            item["name"],
            [r.rolled_back for r in ledger.records],
        )
        # Not through the certificate: the saved original against the result, once more.
        skipped = {line.split(": ")[0] for line in ledger.skipped_feeds}
        for probe in (p for p in probes if p.name not in skipped):
            found = difference(oracle(model, probe.feeds), oracle(original, probe.feeds))
            assert found.max_abs_over_range < 2e-5, (item["name"], probe.name, found)
            compared += 1
    assert compared > 0
