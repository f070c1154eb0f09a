"""The report: valid, complete in itself, safe against hostile names, equal to the record figure by figure."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optim.errors import UserError
from pipeline.config import ReportConfig
from pipeline.records import Record, RunRecord
from pipeline.report import render
from pipeline.report.headline import headline
from pipeline.report.pages import notable
from tests.report.factory import LAYERS, layer_map_rows, metrics, run_record
from tests.report.page import Page

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-->]]></style></svg>{{ 7*7 }}{% raw %}",
    "a|b`c`](http://evil.example/)\n# heading",
    "javascript:alert(1)",
)


def _page(folder: Path, record: RunRecord, **config: object) -> Page:
    render(record, layer_map_rows(), folder, ReportConfig(**config))  # type: ignore[arg-type]
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return run_record()


@pytest.fixture(scope="module")
def page(record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return _page(tmp_path_factory.mktemp("report"), record)


# --- form ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"passed": False}, {"benchmark": False}, {"bundles": ()}, {"steps": ()}]
)
def test_is_balanced_html_with_unique_ids(tmp_path: Path, changes: dict[str, object]) -> None:
    page = _page(tmp_path, run_record(**changes))  # type: ignore[arg-type]
    assert page.problems == []
    assert len(page.ids) == len(set(page.ids)) >= 9


def test_links_inside_the_page_lead_somewhere(page: Page) -> None:
    anchors = [a["href"] for tag, a in page.tags if tag == "a"]
    assert len(anchors) >= 10
    assert {a.removeprefix("#") for a in anchors} <= set(page.ids)
    drawn = [a["href"] for tag, a in page.tags if tag == "use"]
    assert {a.removeprefix("#") for a in drawn} <= set(page.ids)


def test_loads_nothing(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed", "video", "audio", "base"} & {
        tag for tag, _ in page.tags
    }
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\((?!#)|@import|@font-face", page.html)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", page.html))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a namespace's name; nothing fetches it
    policy = [a for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy[0]["content"]


def test_tables_can_be_read_aloud(page: Page) -> None:
    headings = [a for tag, a in page.tags if tag == "th"]
    assert headings
    assert all(a.get("scope") in ("col", "row") for a in headings)
    regions = [a for tag, a in page.tags if a.get("class") == "scroll"]
    assert regions
    assert all(a.get("aria-label") for a in regions)
    charts = [a for tag, a in page.tags if a.get("class") == "chart"]
    assert len(charts) == 4  # latency, batch curves, ratios, growth of the error
    assert all(a["role"] == "img" for a in charts)
    opening = ("Latency distribution", "Latency and throughput", "Ratios", "Error")
    assert all(a["aria-label"].startswith(opening) for a in charts), [a["aria-label"] for a in charts]
    assert ("html", {"lang": "en"}) in page.tags
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(b - a <= 2 for a, b in pairwise(levels))


def test_dark_mode_and_print_are_provided_for(page: Page) -> None:
    assert "prefers-color-scheme: dark" in page.html
    assert "@media print" in page.html
    svgs = re.findall(r"<svg.*?</svg>", page.html, re.DOTALL)
    assert len(svgs) == 4
    assert all("currentColor" in svg and "#010203" not in svg for svg in svgs)


# --- content -------------------------------------------------------------------------------------


def _figures(value: object) -> list[float]:
    """Every float of a record, wherever it stands."""
    if isinstance(value, Record):
        return [f for name in type(value).model_fields for f in _figures(getattr(value, name))]
    if isinstance(value, (tuple, list)):
        return [f for v in value for f in _figures(v)]
    return [value] if isinstance(value, float) else []


def test_figures_equal_those_of_the_record(record: RunRecord, page: Page) -> None:
    shown = {float(f) for f in page.figures if f not in ("", "True", "False")}
    assert record.benchmark is not None
    without_raw = [r.model_copy(update={"raw_ms": ()}) for r in record.benchmark.results]
    shown_parts = (
        record.parity,
        record.parity_detail.accuracy,
        [c.model_copy(update={"metrics": None}) for c in record.parity_detail.comparisons],
        [c.metrics.max_abs_over_range for c in record.parity_detail.comparisons],
        [c.metrics.snr_db for c in record.parity_detail.comparisons],
        [c.metrics.max_abs for c in record.parity_detail.comparisons],
        record.benchmark.comparisons,
        [r.model_copy(update={"percentiles": ()}) for r in without_raw],
        [(p.value_ms, p.interval_ms) for r in record.benchmark.results for p in r.percentiles],
        record.optimize.ledger,
        record.bundles and [(b.max_abs_over_range, b.snr_db) for b in record.bundles],
        record.convert.parity,
        record.convert.seconds,
        record.convert.peak_rss_mib,
        [s.seconds for s in record.steps],
    )
    wanted = {f for part in shown_parts for f in _figures(part)}
    assert len(wanted) > 60
    assert wanted - shown == set()


def test_no_figure_is_invented(record: RunRecord, page: Page) -> None:
    known = {float(f) for f in _numbers(json.loads(record.model_dump_json()))} | {float("inf")}
    known |= {float(sum(layer[3] for layer in LAYERS))}
    known |= {  # the one figure the page computes: error as a multiple of the source's own
        c.b_error / c.source_error
        for c in record.parity_detail.comparisons
        if c.b_error is not None and c.source_error is not None
    }
    known |= {float(len(line.refusals)) for line in record.optimize.ledger}
    known |= {  # how many more samples a percentile needs
        float(p.samples_needed - one.samples)
        for one in (record.benchmark.results if record.benchmark else ())
        for p in one.percentiles
    }
    assert {float(f) for f in page.figures if f} - known == set()


def _numbers(tree: object) -> list[float]:
    if isinstance(tree, dict):
        return [n for v in tree.values() for n in _numbers(v)]
    if isinstance(tree, list):
        return [n for v in tree for n in _numbers(v)]
    return [float(tree)] if isinstance(tree, (int, float)) else []


def test_verdict_stands_first(page: Page, tmp_path: Path) -> None:
    head = page.text.split("Layers", 2)[1]
    for text in ("Yes, within the gate", "16.1× faster", "runs/digits/bundles/onnxruntime"):
        assert text in page.text
        assert page.text.index(text) < page.text.index("Each layer of the source model")
    assert "every gate met" in page.text
    assert head
    bad = _page(tmp_path, run_record(passed=False))
    for text in (
        "No: a gate was missed",
        "a gate was not met",
        "they first part at conv2",
        "0 of 2 verified",
    ):
        assert text in bad.text
    assert "every gate met" not in bad.text


def test_layer_table_answers_the_questions(page: Page) -> None:
    row = page.row("conv2")
    assert row[:4] == ["conv2", "Conv2D", "? × 14 × 14 × 32", "4,640"]
    assert row[4] == "conv2/kernel 3 × 3 × 16 × 32 → 32 × 16 × 3 × 3 (axes 3, 2, 0, 1)"
    assert row[5] == "same [0, 0] ... [1, 1]"
    assert row[6] == "Conv conv2 tensor conv2_out"
    assert "merged into Conv conv1" in page.row("bn1")[6]
    assert page.row("9 layers")[3] == "20,538"


def test_ledger_shows_refusals_and_rollbacks_with_reasons(page: Page) -> None:
    row = " ".join(page.row("fold_batchnorm"))
    assert "refused bn3_out: a Pad lies between and channel 4 has a shift of 0.2" in row
    assert "rolled back bn4_out: 0.00045 on random/batch=2, bound 2e-06" in row


def test_passes_that_found_nothing_stand_apart(record: RunRecord, page: Page) -> None:
    idle = [line.name for line in record.optimize.ledger if line.idle]
    assert idle
    assert all(len(page.row(name)) == 4 for name in idle)
    busy = [line for line in record.optimize.ledger if not line.idle]
    assert all(line.sites or line.refusals or line.rolled_back or line.certificate for line in busy)
    assert f"{len(idle)} pass{'es' if len(idle) > 1 else ''} found nothing to do" in page.text


def test_times_and_gates_are_in_words(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "Started 2026-01-31 12:34 UTC, took 41.8 s" in text
    assert "T12:34:56" not in text
    assert "max|Δ|/range ≤ 2e-05; SNR ≥ 90 dB; accuracy ≥ 98 %; same class as the source on ≥ 100 %" in text


def test_a_tensor_that_only_the_optimised_graph_has_needs_no_dash(record: RunRecord, tmp_path: Path) -> None:
    rows = [row.model_copy(update={"tensor_before": ""}) for row in layer_map_rows()]
    render(record, rows, tmp_path, ReportConfig())
    shown = Page((tmp_path / "report.html").read_text(encoding="utf-8")).row("conv2")[6]
    assert shown == "Conv conv2 tensor conv2_out"


def test_what_a_bundle_did_not_execute_is_named(record: RunRecord, tmp_path: Path) -> None:
    absent = ("model.onnx#webgpu: this browser offers no WebGPU adapter",)
    bundle = record.bundles[0].model_copy(update={"not_executed": absent, "notes": ("calibrated on 200",)})
    page = _page(tmp_path, record.model_copy(update={"bundles": (bundle,)}))
    state = " ".join(next(row[1] for row in page.rows if row[0] == "onnxruntime" and len(row) == 8).split())
    assert state == f"✓ verified not executed here: {absent[0]} calibrated on 200"
    assert "not executed here: model.onnx" in (tmp_path / "report.md").read_text()


def test_state_is_said_in_words(page: Page) -> None:
    states = {row[0]: " ".join(row[1].split()) for row in page.rows if len(row) == 8}
    assert states["onnxruntime"] == "✓ verified"
    assert states["coreml"] == "produced, not executed Core ML runs on macOS only"


def test_what_was_frozen_noted_cached_and_left_out_is_shown(page: Page) -> None:
    for text in (
        "dropout is off at inference",
        "was found at the end of the only path",
        "from the store",
        "recipe changed",
        "batch 64: the source needs more than 4 GiB",
        "the clock is not pinned",
        "no difference shown",
        "packages.onnxruntime",
        "more samples",
    ):
        assert text in " ".join(page.text.split()), text


def test_failures_are_never_folded_away(record: RunRecord) -> None:
    base = record.parity_detail.comparisons[0]
    many = [
        base.model_copy(update={"feed": f"f{k}", "passed": k % 10 != 0, "metrics": metrics(k * 1e-8)})
        for k in range(1, 31)
    ]
    shown, rest = notable(many)
    assert [c.feed for c in shown] == ["f10", "f20", "f25", "f26", "f27", "f28", "f29", "f30"]
    assert all(c.passed for c in rest)
    assert len(shown) + len(rest) == len(many)
    assert notable(many[:8]) == (many[:8], [])
    failed = [c.model_copy(update={"passed": False}) for c in many]
    assert notable(failed) == (failed, [])


def test_many_samples_do_not_swell_the_page(record: RunRecord, tmp_path: Path) -> None:
    assert record.benchmark is not None
    results = tuple(r.model_copy(update={"raw_ms": r.raw_ms * 50}) for r in record.benchmark.results)
    grown = record.model_copy(update={"benchmark": record.benchmark.model_copy(update={"results": results})})
    assert len(_page(tmp_path, grown).html) < 700_000


# --- hostile names -------------------------------------------------------------------------------


def _with_names(name: str) -> RunRecord:
    """A record in which every free text is ``name``."""
    body = json.loads(run_record().model_dump_json(by_alias=True))
    keys = {
        "name", "op", "feed", "output", "why", "value", "reason", "site", "cause", "node", "tensor",
        "framework", "contender", "a", "b", "padding", "target", "path", "cpu_model", "source_format",
        "recipe", "description",
    }  # fmt: skip

    def poison(tree: object) -> object:
        if isinstance(tree, dict):
            return {k: name if k in keys and isinstance(v, str) else poison(v) for k, v in tree.items()}
        if isinstance(tree, list):
            return [poison(v) for v in tree]
        return tree

    body = poison(body)
    assert isinstance(body, dict)
    body["convert"]["notes"] = [name]
    body["parity_detail"]["runtime_settings"] = {name: name}
    body["environment"] = {name: name}
    body["optimize"]["ops_before"] = {name: 1}
    return RunRecord.model_validate(body)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_and_nothing_else(tmp_path: Path, name: str) -> None:
    page = _page(tmp_path, _with_names(name), title=name)
    assert page.problems == []
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(attribute.startswith("on") for _, found in page.tags for attribute in found)
    assert all(a["href"].startswith("#") for tag, a in page.tags if tag == "a")
    assert page.text.count("".join(name.split(" ")[:1])) > 20
    assert "49" not in page.text.split("Layers")[0]  # {{ 7*7 }} stays text
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    outside_code = re.sub(r"`[^`\n]*`", "", re.sub(r"\\.", "", markdown))
    assert not re.search(r"<(script|img)|\]\(", outside_code)
    assert "\n# heading" not in markdown


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(
        st.characters(codec="utf-8", exclude_characters="\0\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"),
        min_size=1,
    )
)
def test_any_text_leaves_the_page_balanced(tmp_path: Path, name: str) -> None:
    page = _page(tmp_path, _with_names(name).model_copy(update={"benchmark": None}))  # plots are slow
    assert page.problems == []


def test_every_markdown_table_row_has_the_columns_of_its_head(tmp_path: Path) -> None:
    for record in (run_record(), _with_names("a|b\\|c`d`")):
        render(record, layer_map_rows(), tmp_path, ReportConfig())
        columns = None
        rows = 0
        for line in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines():
            if not line.startswith("|"):
                columns = None
                continue
            cells = len(re.findall(r"(?<!\\)\|", re.sub(r"\\\\", "", line))) - 1
            columns = columns or cells
            assert cells == columns, line
            rows += 1
        assert rows > 40


# --- files ---------------------------------------------------------------------------------------


def test_writes_three_files_that_agree(record: RunRecord, tmp_path: Path) -> None:
    written = render(record, layer_map_rows(), tmp_path / "new" / "folder", ReportConfig())
    assert [f.name for f in written] == ["report.html", "report.md", "report.json"]
    assert sorted(f.name for f in written[0].parent.iterdir()) == sorted(f.name for f in written)
    body = json.loads(written[2].read_text(encoding="utf-8"))
    assert RunRecord.model_validate(body["record"]) == record
    assert len(body["layer_map"]) == len(LAYERS)


def test_formats_can_be_turned_off(record: RunRecord, tmp_path: Path) -> None:
    written = render(record, (), tmp_path, ReportConfig(html=False, markdown=False))
    assert [f.name for f in written] == ["report.json"]


def test_another_process_writes_the_same_bytes(record: RunRecord, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.report import render;"
        "from pipeline.config import ReportConfig;"
        "from tests.report.factory import run_record, layer_map_rows;"
        "render(run_record(), layer_map_rows(), Path(sys.argv[1]), ReportConfig())"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, cwd=root, timeout=120)
    render(record, layer_map_rows(), tmp_path / "here", ReportConfig())
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def test_without_matplotlib_the_figures_are_still_there(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = _page(tmp_path, record)
    assert page.problems == []
    assert "matplotlib is not installed" in page.text
    assert "16.1× faster" in page.text


def test_a_folder_that_cannot_be_made_is_the_users_error(record: RunRecord, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write the report"):
        render(record, (), tmp_path / "file" / "out", ReportConfig())


def test_the_card_names_the_worst_of_all_figures(record: RunRecord) -> None:
    """The least SNR is often of another comparison than the largest difference."""
    figures = [one.metrics for one in record.parity_detail.comparisons]
    first, *others = record.parity_detail.comparisons
    noisy = first.model_copy(update={"metrics": metrics(1e-9, 99.5)})
    detail = record.parity_detail.model_copy(update={"comparisons": (noisy, *others)})
    card = headline(record.model_copy(update={"parity_detail": detail}))[0]
    assert f"worst of {len(figures)} comparisons" in card.detail[0]
    assert "SNR 99.5 dB" in card.detail[0]
