# Two commands are enough: `make demo` and `make test`. Both need only Python 3.11+ and a package index.

VENV    ?= .venv
PYTHON  ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
             $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,14))' 2>/dev/null && echo $$p && break; done)
BIN     := $(VENV)/bin
WORKERS ?= 2

ifneq ($(shell command -v uv 2>/dev/null),)
  MAKE_VENV := uv venv --quiet --seed --allow-existing --python "$(PYTHON)" $(VENV)
  FAST      := uv pip install --quiet --python $(BIN)/python
else
  MAKE_VENV := $(PYTHON) -m venv $(VENV)
  FAST      := false
endif
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# uv does not read pip's settings: where it finds no packages, pip may.
INSTALL = fetch() { $(FAST) "$$@" 2>/dev/null || $(PIP) "$$@"; }; fetch

.PHONY: help demo test check test-corpus matrix gpu-check zoo schema clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.installed-all-cpu  ## From a trained Keras model to a proved, measured, deployable bundle
	@$(BIN)/fairlead run configs/quickstart.yaml

test: check .venv-mlserver/.installed  ## Lint, types, import rules, all tests with coverage
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not corpus" --cov --cov-report=term:skip-covered

check: $(VENV)/.installed-dev  ## Lint and types only
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test-corpus: $(VENV)/.installed-dev  ## Every model of the shared corpus against its references
	@$(BIN)/python -m pytest -m corpus tests

matrix: zoo  ## Every system and network on every target: benchmarks/MATRIX.md (an hour the first time)
	@$(BIN)/python configs/zoo/build.py resnet50 mobilenet_v2 unet densenet121 efficientnet_b0 mobilenet_v3_small
	@$(BIN)/python benchmarks/matrix.py

# In an environment of its own: onnxruntime-gpu and onnxruntime overwrite each other. Without a GPU nothing is
# installed or measured, and the target fails: a green one would say that CUDA was checked. The check's status
# is 4; make itself exits with 2, as for every failed recipe.
gpu-check:  ## Everything that needs a CUDA GPU, in one bounded run (fails where there is none)
	@ls /dev/nvidia0 /dev/nvidiactl /dev/dxg 2>/dev/null | grep -q . || nvidia-smi -L 2>/dev/null | grep -q '^GPU ' || { \
	  echo "CUDA was not measured: no NVIDIA GPU on this machine: no device file of its driver, and nvidia-smi lists none" >&2; exit 4; }
	@$(MAKE) --no-print-directory VENV=.venv-gpu .venv-gpu/.installed-gpu
	@.venv-gpu/bin/python -m benchmarks.gpu.check

zoo: $(VENV)/.installed-all-cpu  ## Build the source models that the other configs name (minutes)
	@$(BIN)/python configs/zoo/build.py mnist_softmax mnist_caffe symbols_wolfram alexnet_keras cnn_introduction mobilenet_v2_wolfram vgg16

schema: $(VENV)/.installed-all-cpu  ## Write configs/schema.json
	@$(BIN)/fairlead schema > configs/schema.json

clean:  ## Remove the environment, the store and results
	rm -rf $(VENV) .venv-gpu .venv-mlserver .fairlead runs

# One stamp for each set of extras; made anew when the wanted packages change.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "fairlead needs Python 3.11, 3.12 or 3.13 on PATH" >&2; exit 4; }
	@test -x $(BIN)/python || $(MAKE_VENV)
	@echo "Installing fairlead[$*] into $(VENV) (about a minute the first time) ..." >&2
	@$(INSTALL) -c constraints.txt -e '.[$*]'
	@touch $@

# The KServe server that Triton bundles are served by in a test, in an environment of its own: its wishes
# do not go with ours. Where it cannot be had, that test is skipped and says so.
.venv-mlserver/.installed: tests/targets/mlserver-constraints.txt
	@test -d .venv-mlserver || $(PYTHON) -m venv .venv-mlserver
	@timeout 300 .venv-mlserver/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 \
	  -c $< mlserver onnxruntime && touch $@ || \
	  { rm -rf .venv-mlserver; echo "MLServer could not be installed: its test is skipped" >&2; }
