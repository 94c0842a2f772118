"""Fixed seeds: each a cluster of real cores with faults, checked at every step, then healed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.fixed import STEPS
from tests.sim.run import digest_of

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_every_future_resolves_and_everything_comes_to_rest(fixed, batch):
    stories = fixed.run(batch).stories

    assert not stories, stories[0]


def test_a_seed_has_one_history():
    assert digest_of(7, STEPS) == digest_of(7, STEPS)


@pytest.mark.process
def test_a_history_does_not_depend_on_the_hash_of_strings():
    program = "from tests.sim.run import digest_of; print([digest_of(s, 300) for s in range(5)])"
    found = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(ran.stdout)

    assert len(found) == 1
