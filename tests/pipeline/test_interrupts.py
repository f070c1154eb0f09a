"""An interrupt that Python loses is raised between two steps."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal
from pipeline.interrupts import remember_interrupts, stop_if_interrupted

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

remember_interrupts()
stop_if_interrupted()
finalised = Finalised()
del finalised
print("the interrupt was lost")
try:
    stop_if_interrupted()
except KeyboardInterrupt:
    print("and raised again")
"""


def test_an_interrupt_lost_in_a_finaliser_is_raised_between_steps() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the interrupt was lost", "and raised again"]
    assert "KeyboardInterrupt" in done.stderr  # "Exception ignored in ..."
