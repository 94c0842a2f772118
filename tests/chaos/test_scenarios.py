"""The short form of the chaos: each scenario at least once, those for like clusters in one."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from tests.chaos import strikes_scaling
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


class Slow:
    """A cluster whose bursts are over each time before anybody looks, but for the third."""

    def __init__(self):
        self.bursts = 0
        self.load = SimpleNamespace(until=self.until)

    def burst(self, _):
        self.bursts += 1
        future = Future()
        if self.bursts < 3:
            future.set_result([])
        return {f"burst{self.bursts}-0": future}

    def until(self, question, story):
        assert any(question() for _ in range(5)), story()

    def story(self):
        return f"{self.bursts} bursts, and it was never seen to grow"


def test_a_burst_that_is_over_before_anybody_looks_is_followed_by_another(monkeypatch):
    # The scenario waited two minutes for what had come and gone, and failed.
    it = Slow()
    monkeypatch.setattr(strikes_scaling, "burst", it.burst)
    monkeypatch.setattr(strikes_scaling, "watch", lambda _: None)

    futures = strikes_scaling.burst_until(it, lambda: it.bursts == 3)

    assert sorted(futures) == ["burst1-0", "burst2-0", "burst3-0"]
