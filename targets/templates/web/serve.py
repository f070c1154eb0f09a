"""Serve this folder: python serve.py [PORT]

Any static file server will do. This one also sends the two headers that let the page use several threads
(https://web.dev/articles/coop-coep); without them it runs on one.
"""

from __future__ import annotations

import argparse
import functools
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Handler(SimpleHTTPRequestHandler):
    """Static files, isolated from other origins."""

    extensions_map = {  # noqa: RUF012 - declared so by the base class
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve this folder to browsers on this machine.")
    parser.add_argument("port", type=int, nargs="?", default=8000)
    port = parser.parse_args().port
    handler = functools.partial(Handler, directory=str(HERE))
    try:
        made = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        print(f"port {port}: {said}. Try: another port, as in `python serve.py 8080`", file=sys.stderr)
        sys.exit(2)
    with made as server:
        print(f"http://127.0.0.1:{server.server_port}/  (stop with Ctrl-C)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
