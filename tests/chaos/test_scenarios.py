"""The short form of the chaos: each scenario at least once."""

import pytest

from tests.chaos.scenarios import SCENARIOS
from tests.chaos.short import groups, run_short

# The limit is for a machine that is busy with other things as well.
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def came_of(request):
    """Run all scenarios that are selected, side by side in few clusters."""
    test = test_what_was_called_has_one_outcome_whatever_happens.__name__
    selected = [item for item in request.session.items if item.path == request.path]
    return run_short([i.callspec.params["name"] for i in selected if i.originalname == test])


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("name", SCENARIOS)
def test_what_was_called_has_one_outcome_whatever_happens(name, came_of):
    assert came_of[name] == ""


def test_each_scenario_is_in_one_cluster_of_the_short_form():
    names = list(SCENARIOS)

    found = groups(names)

    assert sorted(name for group in found for name in group) == sorted(names)
    assert all(SCENARIOS[name].short > 0 for name in names)
