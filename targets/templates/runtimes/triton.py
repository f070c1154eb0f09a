"""Asks a server of the V2 inference protocol (Triton, or any other) over HTTP; needs nothing but NumPy.

The server is the one at $TRITON_URL (as http://localhost:8000), started with this bundle's model_repository;
where that is not set and `tritonserver` is on PATH, one is started here for the time of the check.
Protocol: https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
DTYPES = {name: dtype for dtype, name in TYPES.items()}
START_LIMIT_S = 300.0  # a TensorRT engine may have to be built
RUN_LIMIT_S = 600.0


def server_url() -> str:
    """Where a server answers, or is about to.

    Raises:
        ImportError: none is named and none can be started; the word callers know for a missing runtime.
    """
    url = os.environ.get("TRITON_URL", "").rstrip("/")
    if url:
        return url if "://" in url else f"http://{url}"
    if shutil.which("tritonserver"):
        return ""
    raise ImportError(
        "no inference server: set TRITON_URL to one that serves model_repository, or put tritonserver on PATH"
    )


SERVER = server_url()
VERSION = f"V2 inference protocol at {SERVER or 'a tritonserver started here'}"


def call(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[bytes, Any]:
    """(body, headers) of the answer; an HTTP error is raised with what the server says."""
    request = urllib.request.Request(url, data=body, headers=headers or {})
    # No proxy: the server is this machine's or one the user named.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=RUN_LIMIT_S) as answer:
            return answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        said = error.read(2000).decode(errors="replace")
        raise RuntimeError(f"{url}: HTTP {error.code}: {said}") from error


def started(repository: Path) -> str:
    """URL of a tritonserver on ``repository`` that ends with this process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["tritonserver", f"--model-repository={repository}", "--http-address=127.0.0.1"]
    command += [f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false", "--exit-on-error=true"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    atexit.register(process.kill)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"tritonserver ended with code {process.returncode}")
        try:
            call(f"{url}/v2/health/ready")
        except (OSError, RuntimeError):
            time.sleep(0.5)
            continue
        return url
    raise RuntimeError(f"tritonserver was not ready within {START_LIMIT_S:.0f} s")


def load(folder: Path, manifest: dict[str, Any], _model: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from input name → array to output name → array.

    Raises:
        ImportError: the server does not answer, or does not serve this model.
    """
    options = manifest["artefact"]["options"]
    url = SERVER or started(folder / "model_repository")
    name = options["model_name"]
    try:
        about = json.loads(call(f"{url}/v2")[0])
        call(f"{url}/v2/models/{name}/ready")
        served = json.loads(call(f"{url}/v2/models/{name}")[0])
    except (OSError, RuntimeError) as error:
        raise ImportError(f"{url} does not serve {name!r}: {error}") from error
    globals()["VERSION"] = f"{about.get('name', 'server')} {about.get('version', '')} at {url}".strip()
    binary = "binary_tensor_data" in about.get("extensions", [])
    _agree(options["signature"], served)

    def ask(feeds: dict[str, Any]) -> dict[str, Any]:
        body, headers = encoded(feeds, binary=binary)
        answer, got = call(f"{url}/v2/models/{name}/infer", body, headers)
        return decoded(answer, int(got.get("Inference-Header-Content-Length", len(answer))))

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        most = options["max_batch_size"] or max(len(array) for array in feeds.values())
        parts = []
        for start in range(0, max(len(array) for array in feeds.values()), most):
            parts.append(ask({key: array[start : start + most] for key, array in feeds.items()}))
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    return run


def _agree(signature: dict[str, Any], served: dict[str, Any]) -> None:
    """The server's own view of names and types must be the manifest's, where it gives one."""
    for side in ("inputs", "outputs"):
        wanted = {t["name"]: TYPES[t["dtype"]] for t in signature[side]}
        found = {t["name"]: t["datatype"] for t in served.get(side) or []}
        if found and found != wanted:
            raise RuntimeError(f"the server's {side} are {found}, the manifest's {wanted}")


def encoded(feeds: dict[str, Any], *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an inference request."""
    tensors, raw = [], []
    for name, array in feeds.items():
        entry: dict[str, Any] = {"name": name, "shape": list(array.shape)}
        entry["datatype"] = TYPES[array.dtype.name]
        if binary:
            raw.append(np.ascontiguousarray(array).tobytes())
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = array.ravel().tolist()
        tensors.append(entry)
    request: dict[str, Any] = {"inputs": tensors}
    if binary:
        request["parameters"] = {"binary_data_output": True}
    head = json.dumps(request).encode()
    headers = {"Content-Type": "application/json"}
    if binary:
        headers = {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(head)),
        }
    return head + b"".join(raw), headers


def decoded(answer: bytes, head: int) -> dict[str, Any]:
    """Arrays of an inference response whose JSON part has ``head`` bytes."""
    outputs, at = {}, head
    for entry in json.loads(answer[:head])["outputs"]:
        dtype = np.dtype(DTYPES[entry["datatype"]])
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(entry["data"], dtype=dtype)
        else:
            array = np.frombuffer(answer[at : at + size], dtype).copy()
            at += size
        outputs[entry["name"]] = array.reshape(entry["shape"])
    return outputs
