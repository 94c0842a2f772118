"""The simulator finds each planted bug in a few fixed seeds, and nothing where there is none."""

import pytest

from tests.sim.mutants import MUTANTS, caught
from tests.sim.mutants_dead import AFTERLIFE
from tests.sim.mutants_durable import DURABLE
from tests.sim.mutants_labels import LABELS
from tests.sim.mutants_life import LIFE
from tests.sim.mutants_named import NAMED
from tests.sim.mutants_turns import TURNS

SEEDS = range(150)
CLEAN_SEEDS = range(3)
STEPS = 300

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "mutant",
    [*MUTANTS, *LIFE, *DURABLE, *AFTERLIFE, *NAMED, *LABELS, *TURNS],
    ids=lambda mutant: mutant.name,
)
def test_a_planted_bug_is_caught(mutant):
    seed, how = caught(mutant, mutant.profile, SEEDS, STEPS)

    assert seed >= 0, f"{mutant.plant.__doc__} Nobody notices."
    assert not how.startswith("TypeError"), f"The patch does not fit what it patches: {how}"
    clean = range(max(seed + 1, CLEAN_SEEDS.stop))
    assert caught(None, mutant.profile, clean, STEPS) == (-1, ""), how
