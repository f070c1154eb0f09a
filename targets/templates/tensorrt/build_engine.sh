#!/bin/sh
# Build an engine with NVIDIA's trtexec, from this folder: ./build_engine.sh [ENGINE]
# verify.py needs no such file: it builds its own engine and keeps it under ~/.cache. This is for servers that
# load engines, and for trtexec's timings. An engine runs only on this kind of GPU and this version of TensorRT.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
engine=${1:-"${XDG_CACHE_HOME:-$HOME/.cache}/fairlead/tensorrt/$(basename -- "$here").engine"}
command -v trtexec >/dev/null || { echo "trtexec is not on PATH; it comes with TensorRT" >&2; exit 4; }
mkdir -p -- "$(dirname -- "$engine")"
# One flag a line, as manifest.json lists them.
python3 -c '
import json, pathlib, sys
manifest = json.loads((pathlib.Path(sys.argv[1]) / "manifest.json").read_text())
print("\n".join(manifest["artefact"]["options"]["trtexec"]))
' "$here" | {
    set -- "--onnx=$here/model.onnx" "--saveEngine=$engine" "--timingCacheFile=${engine%.engine}.timing"
    while IFS= read -r flag; do set -- "$@" "$flag"; done
    trtexec "$@"
}
echo "$engine"
