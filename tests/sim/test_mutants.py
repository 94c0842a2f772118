"""The simulator finds each planted bug in a few fixed seeds, and nothing where there is none."""

import pytest

from tests.sim import pins
from tests.sim.mutants_ahead import WAITING_AHEAD
from tests.sim.mutants_dead import AFTERLIFE
from tests.sim.mutants_durable import DURABLE
from tests.sim.mutants_environments import ENVIRONMENTS
from tests.sim.mutants_kin import KIN
from tests.sim.mutants_labels import LABELS
from tests.sim.mutants_life import LIFE
from tests.sim.mutants_limits import LIMITS
from tests.sim.mutants_lines import LINES
from tests.sim.mutants_named import NAMED
from tests.sim.mutants_sessions import SESSIONS
from tests.sim.mutants_strict import STRICT
from tests.sim.mutants_turns import TURNS
from tests.sim.mutants_typed import MIXED
from tests.sim.mutants_wakeups import WAKEUPS

SEEDS = range(500)
STEPS = 300
PLANTED = [
    *SESSIONS,
    *WAITING_AHEAD,
    *LIMITS,
    *ENVIRONMENTS,
    *LIFE,
    *DURABLE,
    *AFTERLIFE,
    *NAMED,
    *LABELS,
    *TURNS,
    *STRICT,
    *MIXED,
    *KIN,
    *WAKEUPS,
    *LINES,
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("mutant", PLANTED, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_caught(mutant):
    pin = pins.read().get(mutant.name, SEEDS.start)
    seed, how = pins.shown(mutant, range(pin, pin + 1), STEPS)
    if seed < 0:
        seed, how = pins.shown(mutant, SEEDS, STEPS)

    assert seed >= 0, f"{mutant.name}: nobody notices it"
    assert not how.startswith("TypeError"), f"The patch does not fit what it patches: {how}"
    if mutant in WAKEUPS:
        assert "does not come to rest" in how, "as what never ends, and not as something else"


def test_pins_are_of_planted_bugs():
    assert pins.read().keys() <= {mutant.name for mutant in PLANTED}
