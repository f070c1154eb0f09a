"""The page: fetched runtime, a browser that finds it whole without any other machine, and what it refuses."""

from __future__ import annotations

import contextlib
import functools
import html
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import parser

from optim.errors import MissingRuntimeError, UnsupportedModelError
from targets import npm_package
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.contract import State
from targets.npm_package import NpmPackage, extract, fetch
from targets.preprocessing import Preprocessing
from targets.references import Reference
from targets.web import PACKAGE, PAGE, Web

LABELS = ("nought", "one <img src=x onerror=alert(1)>", "two", "three")


@pytest.fixture(scope="module")
def page(
    classifier: Path, references: tuple[Reference, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("web") / "bundle"
    spec = BundleSpec(
        "digits & more",
        classifier,
        Web(),
        references,
        labels=LABELS,
        preprocessing=Preprocessing(scale=1 / 16),
    )
    try:
        write_bundle(spec, folder)
    except MissingRuntimeError as error:
        pytest.skip(str(error))
    return folder


def _chromium() -> str:
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    return found or pytest.skip("no Chromium on this machine (apt install chromium, or set CHROMIUM)")


@contextlib.contextmanager
def _static_server(folder: Path, *, own: bool) -> Iterator[str]:
    """Any static server, or the bundle's own ``serve.py``."""
    handler: Any = SimpleHTTPRequestHandler
    if own:
        spec = importlib.util.spec_from_file_location("serve", folder / "serve.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        handler = module.Handler
    quiet = type("Quiet", (handler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def _seen(url: str, profile: Path) -> str:
    """The page as it stands when it has come to rest, in a browser that can reach this machine alone.

    The browser's virtual time runs out early on a busy machine: a page that has not checked itself is opened
    again.
    """
    flags = ["--headless=new", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-dev-shm-usage"]
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []
    seen = ""
    for _ in range(3):
        done = subprocess.run(
            [_chromium(), *flags, "--virtual-time-budget=60000", "--dump-dom", url],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(profile)},
        )
        seen = done.stdout
        if "data-checked=" in seen:
            break
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False], ids=["serve.py", "any server"])
def test_the_page_verifies_itself_from_a_static_server(page: Path, tmp_path: Path, own: bool) -> None:
    with _static_server(page, own=own) as url:
        seen = _seen(url, tmp_path)
    assert 'data-checked="2/2"' in seen, re.sub("<[^>]+>", " ", seen)[:2000]
    text = html.unescape(re.sub("<[^>]+>", " ", seen))
    assert "digits & more" in text
    assert "verified here" in text
    assert "Yes: 2 outputs" in text
    assert ("does not send COOP and COEP" in text) == (not own)
    assert "<img" not in seen  # a label is text, whatever it says
    assert LABELS[1] in text


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "damage", "told", "checked"),
    [
        ("references/random_0.npz", Path.unlink, "references/random_0.npz is missing on this server", "1/2"),
        ("references/zeros.npz", _truncate, "references/zeros.npz is damaged", "1/2"),
        ("preprocess.json", _truncate, "preprocess.json is damaged", "error"),
        ("model.onnx", Path.unlink, "model.onnx", "error"),
    ],
    ids=["missing reference", "truncated reference", "truncated preprocess.json", "missing model"],
)
def test_a_damaged_copy_is_not_called_verified(
    page: Path, tmp_path: Path, file: str, damage: Callable[[Path], None], told: str, checked: str
) -> None:
    bundle = Path(shutil.copytree(page, tmp_path / "bundle"))
    damage(bundle / file)
    with _static_server(bundle, own=True) as url:
        seen = _seen(url, tmp_path / "profile")
    assert f'data-checked="{checked}"' in seen, re.sub("<[^>]+>", " ", seen)[:2000]
    text = html.unescape(re.sub("<[^>]+>", " ", seen))
    assert told in text
    assert "verified here" not in text


def test_a_port_that_cannot_be_had_is_said_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        for port, said in ((busy, f"port {busy}: "), (70000, "port 70000: "), ("x", "invalid int value")):
            command = [sys.executable, str(PAGE / "serve.py"), str(port)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 2
            assert said in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_both_providers_were_driven(page: Path) -> None:
    _chromium()
    verdict = verify_bundle(page)
    assert verdict.state is State.VERIFIED, verdict
    assert verdict.detail.startswith("Chromium")
    if "not executed" in verdict.detail:
        assert "model.onnx#webgpu" in verdict.detail
        pytest.skip(f"this browser has no WebGPU: {verdict.detail}")


@pytest.mark.slow
def test_a_wrong_page_is_found_by_driving_it(page: Path, tmp_path: Path) -> None:
    """The JavaScript itself is part of what is verified: feeds that it mangles give wrong answers."""
    _chromium()
    bundle = Path(shutil.copytree(page, tmp_path / "bundle"))
    script = (bundle / "npz.js").read_text()
    broken = script.replace(
        "new ARRAYS[kind](bytes.slice(start + length))",
        "new ARRAYS[kind](bytes.slice(start + length)).reverse()",
    )
    assert broken != script
    (bundle / "npz.js").write_text(broken)
    from targets.closeness import Gate
    from targets.manifest import read_manifest
    from targets.replay import replay

    verdict = replay(bundle, read_manifest(bundle), Web(), Gate())
    assert verdict.state is State.FAILED
    assert "random_0" in " ".join(verdict.problems)


def test_it_names_no_other_machine() -> None:
    for file in PAGE.iterdir():
        outside = re.findall(r"https?://[^\s\"')]+", file.read_text())
        assert all(
            "127.0.0.1" in url or file.suffix == ".py" or url.startswith("https://numpy.org/")
            for url in outside
        ), (file, outside)


def test_without_webgpu_the_smaller_build_is_shipped(page: Path, classifier: Path, tmp_path: Path) -> None:
    artefact = Web().build(classifier, tmp_path, {"webgpu": False})
    assert artefact.options["runnable"] == ["model.onnx#wasm"]
    small = sum((tmp_path / f).stat().st_size for f in artefact.files)
    assert small < 0.7 * sum(f.stat().st_size for f in page.rglob("*") if f.is_file())


def test_the_runtimes_licence_travels_along(page: Path) -> None:
    text = (page / "LICENCES.md").read_text()
    assert "MIT License" in text
    assert "Microsoft" in text
    assert "ort/ort-wasm-simd-threaded.asyncify.wasm" in text


STRINGS = """
<ir_version: 8, opset_import: ["" : 17]>
net (string[2] words) => (string[2] y) { y = Identity(words) }
"""


def test_strings_do_not_reach_the_page(tmp_path: Path) -> None:
    onnx.save(parser.parse_model(STRINGS), tmp_path / "words.onnx")
    assert any(reason.startswith("words: ") for reason in Web().unsupported(tmp_path / "words.onnx"))
    with pytest.raises(UnsupportedModelError):
        Web().build(tmp_path / "words.onnx", tmp_path, {})


# --- how the runtime is had ----------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fairlead" / "npm"


def test_without_npm_and_copy_the_runtime_is_missing(
    classifier: Path,
    references: tuple[Reference, ...],
    empty_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRuntimeError, match="no npm") as caught:
        write_bundle(BundleSpec("digits", classifier, Web(), references), tmp_path / "out" / "bundle")
    assert caught.value.exit_code == 4
    assert "Node.js" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []
    found = Web().available()
    assert not found.available
    assert "npm" in found.needs


def _fake_npm(folder: Path, body: str) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!{sys.executable}\n{body}")
    (folder / "npm").chmod(0o755)


def test_an_npm_that_fails_is_quoted(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_npm(tmp_path / "bin", "import sys; sys.exit('registry is on fire')")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(MissingRuntimeError, match="registry is on fire"):
        fetch(PACKAGE)
    assert [f.suffix for f in empty_cache.iterdir()] == [".lock"]


def test_another_archive_than_the_known_one_is_refused(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "import sys; open(sys.argv[-1] + '/x.tgz', 'wb').write(b'evil')"
    _fake_npm(tmp_path / "bin", body)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(MissingRuntimeError, match="SHA-512"):
        fetch(PACKAGE)


def test_fetched_once_then_from_the_copy(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.js").write_text("1")
    with tarfile.open(tmp_path / "one.tgz", "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    package = NpmPackage("a", "1.0.0", npm_package._integrity(tmp_path / "one.tgz"))
    copy = f"import shutil, sys; shutil.copy({str(tmp_path / 'one.tgz')!r}, sys.argv[-1])"
    _fake_npm(tmp_path / "bin", copy)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    extract(package, {"a.js": "lib/b.js"}, tmp_path / "out")
    assert (tmp_path / "out" / "lib" / "b.js").read_text() == "1"
    monkeypatch.setenv("PATH", "")  # no npm any more
    extract(package, {"a.js": "again.js"}, tmp_path / "out")
    assert (tmp_path / "out" / "again.js").read_text() == "1"
    with pytest.raises(MissingRuntimeError, match=r"holds no missing\.js"):
        extract(package, {"missing.js": "x.js"}, tmp_path / "out")
