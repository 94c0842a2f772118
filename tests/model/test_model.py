"""All short histories of small clusters of real cores: none may break a promise.

`tests/sim` walks at random through large clusters; here small ones are searched to the end.
"""

import pytest

from tests.model.explore import explore
from tests.model.mutants import MUTANTS
from tests.model.scenarios import BUDGETS, FAST
from tests.model.store import Store

pytestmark = pytest.mark.slow


STORE = Store()


@pytest.mark.parametrize("name", FAST)
def test_no_history_breaks_a_promise(name):
    found = explore(FAST[name], store=STORE)

    assert not found.violation, str(found)
    assert found.is_complete
    assert found.ends
    assert FAST[name].moves.keys() <= found.kinds.keys(), "each move that may happen does"


def test_every_move_may_happen_somewhere():
    assert set(BUDGETS) == {move for scenario in FAST.values() for move in scenario.moves}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found(mutant):
    with mutant.plant():
        found = explore(mutant.scenario)

    assert found.violation, f"{mutant.plant.__doc__} Nobody notices."
    assert "TypeError" not in found.violation, "The patch does not fit what it patches."
    assert found.history.endswith(found.violation)


def test_a_history_reads_as_the_protocol_is_written():
    (mutant,) = [one for one in MUTANTS if one.name == "epoch_does_not_rise"]
    with mutant.plant():
        found = explore(mutant.scenario)

    assert '["submit", 1, 0, "<>", 0, false, 0, null, null, null]' in found.history
    assert "B to A1: " in found.history
