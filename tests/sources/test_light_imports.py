"""Light imports: what is left out seems absent, stays out of memory, and comes back when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from pipeline.sources.light_imports import without


def run(script: str) -> str:
    """What ``script`` prints, in an interpreter that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_module_that_is_left_out_seems_not_to_be_installed() -> None:
    sys.modules.pop("colorsys", None)
    with without(["colorsys"]), pytest.raises(ModuleNotFoundError):
        import colorsys
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)


def test_a_module_that_is_loaded_already_stays() -> None:
    import colorsys

    with without(["colorsys"]):
        assert sys.modules["colorsys"] is colorsys
    assert sys.modules["colorsys"] is colorsys


def test_it_comes_back_after_an_error() -> None:
    sys.modules.pop("colorsys", None)
    with pytest.raises(ZeroDivisionError), without(["colorsys"]):
        raise ZeroDivisionError
    assert "colorsys" not in sys.modules


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="pip install 'fairlead[tensorflow]'")
@pytest.mark.parametrize(("source_format", "expected"), [("tf1_checkpoint", []), ("keras", ["keras"])])
def test_tensorflow_comes_without_what_a_conversion_never_uses(
    source_format: str, expected: list[str]
) -> None:
    """And all of Keras is still there for whoever asks."""
    script = (
        "import sys\n"
        "from pipeline.sources.contract import SourceFormat\n"
        "from pipeline.sources.light_imports import import_framework\n"
        f"import_framework(SourceFormat({source_format!r}), for_custom_code=False)\n"
        "heavy = ['keras', 'sklearn', 'matplotlib', 'cv2', 'pandas']\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "import tensorflow as tf\n"
        "from tensorflow.keras.layers import Dense\n"
        "assert tf.keras.layers.Dense is Dense\n"
        "assert None not in sys.modules.values()\n"
    )
    assert run(script) == str(expected)


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="pip install 'fairlead[tensorflow]'")
def test_code_of_the_user_finds_everything() -> None:
    script = (
        "import sys\n"
        "from pipeline.sources.contract import SourceFormat\n"
        "from pipeline.sources.light_imports import import_framework\n"
        "import_framework(SourceFormat.TF1_CHECKPOINT, for_custom_code=True)\n"
        "print('keras.src.optimizers' in sys.modules)\n"
    )
    assert run(script) == "True"
