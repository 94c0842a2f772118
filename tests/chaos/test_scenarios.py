"""The short form of the chaos: each scenario at least once, those for like clusters in one."""

import pytest

from tests.chaos.scenarios import SCENARIOS
from tests.chaos.short import groups, run_apart

GROUPS = groups(list(SCENARIOS))


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("names", GROUPS, ids=" ".join)
def test_what_was_called_has_one_outcome_whatever_happens(names):
    assert run_apart(names) == dict.fromkeys(names, "")


def test_each_scenario_is_in_one_cluster_of_the_short_form():
    assert sorted(name for group in GROUPS for name in group) == sorted(SCENARIOS)
    assert all(scenario.short > 0 for scenario in SCENARIOS.values())
