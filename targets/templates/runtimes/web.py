"""Runs this bundle's own page in a headless Chromium: a local server hands it feeds and takes the outputs.

The browser is found as $CHROMIUM or under its usual names on PATH. Nothing outside this machine is asked.
"""

from __future__ import annotations

import atexit
import contextlib
import http.server
import io
import json
import os
import queue
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
START_LIMIT_S = 180.0  # the first session compiles 27 MB of WebAssembly and reads the model
RUN_LIMIT_S = 900.0  # WebGPU in software is slow
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript"}
TYPES |= {".wasm": "application/wasm", ".json": "application/json"}
GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


def browser() -> str:
    """Path of a Chromium.

    Raises:
        ImportError: there is none; the word that callers know for a missing runtime.
    """
    named = os.environ.get("CHROMIUM", "")
    for name in (named, *BROWSERS):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise ImportError("no Chromium on this machine (apt install chromium, or set CHROMIUM)")


def _version() -> str:
    said = subprocess.run([browser(), "--version"], capture_output=True, text=True, timeout=60, check=False)
    return " ".join(said.stdout.split()[:2]) or "Chromium"


VERSION = _version()


class Page:
    """A browser with the page open, and the server it talks to."""

    def __init__(self, folder: Path, manifest: dict[str, Any], provider: str) -> None:
        self.folder, self.manifest = folder, json.dumps(manifest).encode()
        self.feeds: queue.Queue[bytes] = queue.Queue()
        self.said: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.channel = "/" + secrets.token_hex(16)
        self.closed = False
        handler = type("Handler", (_Handler,), {"page": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.profile = tempfile.mkdtemp(prefix="chromium-")
        url = f"http://127.0.0.1:{self.server.server_port}/index.html"
        url += f"?drive={self.channel}&provider={provider}&threads=1"
        self.process = subprocess.Popen(
            [browser(), *self._flags(provider), url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self.close)

    def _flags(self, provider: str) -> list[str]:
        flags = [
            "--headless=new",
            f"--user-data-dir={self.profile}",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--proxy-server=direct://",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no other machine is ever asked
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium has no sandbox for root, as in most containers
        return flags + list(GPU if provider == "webgpu" else ("--disable-gpu",))

    def answer(self, limit_s: float) -> tuple[str, bytes]:
        """What the page says next."""
        waited = 0.0
        while True:
            try:
                return self.said.get(timeout=1.0)
            except queue.Empty:
                waited += 1.0
                if self.process.poll() is not None:
                    raise RuntimeError(f"the browser ended with code {self.process.returncode}") from None
                if waited > limit_s:
                    raise RuntimeError(f"the page gave no answer within {limit_s:.0f} s") from None

    def close(self) -> None:
        """End the browser and the server."""
        if self.closed:
            return
        self.closed = True
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.server.shutdown()
        shutil.rmtree(self.profile, ignore_errors=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    page: Page
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == f"{self.page.channel}/next":
            self._next()
        elif path == "/manifest.json":
            self._send(200, self.page.manifest, "application/json")
        else:
            self._file(path)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        channel, _, word = self.path.rpartition("/")
        if channel != self.page.channel:
            self._send(404, b"", "text/plain")
            return
        self.page.said.put((word, body))
        self._send(200, b"", "text/plain")

    def _next(self) -> None:
        try:
            self._send(200, self.page.feeds.get(timeout=10.0), "application/zip")
        except queue.Empty:
            self._send(204, b"", "text/plain")

    def _file(self, path: str) -> None:
        root = self.page.folder.resolve()
        file = (root / path.lstrip("/")).resolve()
        if root not in file.parents or not file.is_file():
            self._send(404, b"", "text/plain")
            return
        self.send_response(200)
        self._isolate(TYPES.get(file.suffix, "application/octet-stream"), file.stat().st_size)
        with file.open("rb") as stream:
            shutil.copyfileobj(stream, self.wfile, 1 << 20)

    def _send(self, code: int, body: bytes, kind: str) -> None:
        with contextlib.suppress(ConnectionError):  # the browser has been closed
            self.send_response(code)
            self._isolate(kind, len(body))
            self.wfile.write(body)

    def _isolate(self, kind: str, length: int) -> None:
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: results belong to stdout."""


def load(folder: Path, manifest: dict[str, Any], model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array; ``model`` is model.onnx#PROVIDER.

    Raises:
        ImportError: no browser, or one without WebGPU where that is asked for.
    """
    provider = model.partition("#")[2] or "wasm"
    page = Page(folder, manifest, provider)
    word, body = page.answer(START_LIMIT_S)
    if word != "ready":
        page.close()
        said = body.decode(errors="replace")
        raise ImportError(said) if word == "missing" else RuntimeError(f"{provider}: {said}")

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        stream = io.BytesIO()
        rows = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        np.savez(stream, allow_pickle=False, **rows)  # type: ignore[arg-type, unused-ignore]
        page.feeds.put(stream.getvalue())
        word, body = page.answer(RUN_LIMIT_S)
        if word != "outputs":
            raise RuntimeError(f"{provider}: {body.decode(errors='replace')}")
        head, _, rest = body.partition(b"\n")
        outputs, at = {}, 0
        for entry in json.loads(head):
            data = rest[at : at + entry["bytes"]]
            outputs[entry["name"]] = np.frombuffer(data, entry["dtype"]).reshape(entry["shape"]).copy()
            at += entry["bytes"]
        return outputs

    return run
