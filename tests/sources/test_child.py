"""A child process: results and errors come back whole, limits hold, crashes are named."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from optim.errors import FairleadError, InternalError, UnsupportedModelError, UserError
from pipeline.sources.child import Child, ChildLimits, call_once

HERE = "tests.sources.test_child"
Progress = Callable[[str, float], None]


def add(a: int, b: int, progress: Progress) -> int:
    progress("adding", 0.5)
    return a + b


def refuse(_progress: Progress) -> None:
    raise UnsupportedModelError("no", op="Foo", node="foo_1", layer="layer_2", hint="try", expected="this")


def blunder(_progress: Progress) -> None:
    raise ZeroDivisionError("oops")


def die(number: int, _progress: Progress) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def wait(_progress: Progress) -> None:
    time.sleep(60)


def fill(_progress: Progress) -> None:
    kept = [bytearray(b"x" * (16 << 20)) for _ in range(64)]
    time.sleep(60)
    kept.clear()


def home(_progress: Progress) -> str:
    return str(Path.home())


def speak(_progress: Progress) -> int:
    print("noise")  # noqa: T201
    sys.stderr.write("more noise")
    return 1


def test_results_progress_and_peak_memory_come_back() -> None:
    seen: list[tuple[str, float]] = []
    done = call_once(f"{HERE}:add", 2, 3, progress=lambda text, part: seen.append((text, part)))
    assert done.value == 5
    assert seen == [("adding", 0.5)]
    assert 5 < done.peak_rss_mib < 2000


def test_one_child_answers_many_calls_even_after_an_error() -> None:
    with Child() as child:
        assert child.call(f"{HERE}:add", 1, 1).value == 2
        with pytest.raises(UnsupportedModelError):
            child.call(f"{HERE}:refuse")
        assert child.call(f"{HERE}:add", 2, 2).value == 4


def test_deliberate_errors_keep_all_their_fields() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        call_once(f"{HERE}:refuse")
    error = caught.value
    fields = (error.what, error.op, error.node, error.layer, error.hint, error.expected)
    assert fields == ("no", "Foo", "foo_1", "layer_2", "try", "this")


@pytest.mark.parametrize(
    ("function", "arguments", "limits", "expected", "message"),
    [
        ("blunder", (), ChildLimits(), InternalError, "ZeroDivisionError: oops"),
        ("die", (signal.SIGSEGV,), ChildLimits(), UnsupportedModelError, "SIGSEGV"),
        ("die", (signal.SIGKILL,), ChildLimits(), UserError, "memory ran out"),
        ("wait", (), ChildLimits(time_s=0.5), UserError, "time limit of 0.5 s"),
        ("fill", (), ChildLimits(memory_mib=300), UserError, "memory limit of 300 MiB"),
    ],
)
def test_what_goes_wrong_is_named(
    function: str,
    arguments: tuple[object, ...],
    limits: ChildLimits,
    expected: type[FairleadError],
    message: str,
) -> None:
    with pytest.raises(expected, match=message):
        call_once(f"{HERE}:{function}", *arguments, limits=limits)


def test_the_child_has_a_home_of_its_own_which_goes_with_it() -> None:
    with Child() as child:
        place = Path(child.call(f"{HERE}:home").value)
        assert place != Path.home()
        assert place.is_dir()
    assert not place.exists()


def test_what_a_framework_prints_stays_in_the_child(capfd: pytest.CaptureFixture[str]) -> None:
    assert call_once(f"{HERE}:speak").value == 1
    assert capfd.readouterr() == ("", "")
