"""Where a model runs: one module a target, behind one contract."""

from __future__ import annotations

import os

# ONNX Runtime from 1.31 on writes a device id and a data base of usage events below the user's cache, unless
# this variable is set when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
