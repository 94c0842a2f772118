"""Ctrl-C while a program still loads."""

import signal
import subprocess
import sys

import pytest

from tests.support.deployment import DEADLINE_S, ROOT, environment

# In the place of a module that each of them loads.
SLOW = """
import signal
print("loading", flush=True)
signal.pause()
"""


@pytest.mark.process
@pytest.mark.parametrize("program", ["broker", "actor", "sdk"])
def test_ctrl_c_while_a_program_loads_ends_it_without_a_traceback(program, tmp_path):
    (tmp_path / "msgspec.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-m", program],
        cwd=ROOT,
        env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "loading\n"

    process.send_signal(signal.SIGINT)

    _, said = process.communicate(timeout=DEADLINE_S)
    assert said == ""
    assert process.returncode == -signal.SIGINT


def test_a_program_of_somebody_else_keeps_its_ctrl_c():
    asked = "import sdk, signal; print(signal.getsignal(2) is signal.default_int_handler)"
    done = subprocess.run(
        [sys.executable, "-c", asked],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
        timeout=DEADLINE_S,
    )

    assert done.stdout == "True\n"
