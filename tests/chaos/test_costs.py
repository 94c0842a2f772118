"""What the costs of a fault are counted from, and what is found in histories that cannot be."""

import pytest

from tests.chaos import costs
from tests.chaos.history import BEGAN, CALLED, ENDED, FREED, HELD, OUTCOME, Broken

MINE, OTHER = 100, 200


class Notes:
    """A history that is written in few words: each note a second after the one before it."""

    def __init__(self):
        self.entries = []

    def says(self, what, key="a-1", number=None, pid=MINE, **more):
        token = {} if number is None else {"token": [1, number]}
        entry = {"at": float(len(self.entries)), "pid": pid, "what": what, "key": key}
        self.entries.append(entry | token | more)
        return self

    def ends(self, number, key="a-1"):
        return self.says(OUTCOME, key, number, kind="result")


@pytest.fixture
def notes():
    return Notes()


@pytest.mark.parametrize("is_adopted", [True, False])
def test_a_run_is_adopted_whose_call_has_its_outcome(notes, is_adopted):
    notes.says(CALLED).says(BEGAN, number=1)
    if not is_adopted:
        notes.says(BEGAN, number=2)
    notes.says(ENDED, number=1).ends(1 if is_adopted else 2)

    assert costs.adopted(notes.entries, 1.5) == (1, int(is_adopted))


def test_what_had_ended_or_had_its_outcome_was_not_under_way(notes):
    notes.says(CALLED).says(BEGAN, number=1).says(ENDED, number=1)
    notes.says(CALLED, "a-2").says(BEGAN, "a-2", 2).ends(2, "a-2")

    assert costs.under_way(notes.entries, 10.0) == []
    assert costs.in_flight(notes.entries, 4.5) == 2
    assert costs.in_flight(notes.entries, 10.0) == 1


def test_a_killed_run_is_taken_over_when_the_next_one_begins(notes):
    notes.says(CALLED).says(BEGAN, number=1).says(BEGAN, number=2, pid=OTHER)

    assert costs.taken_over_s(notes.entries, MINE, 1.5) == [0.5]
    assert costs.taken_over_s(notes.entries, OTHER, 1.5) == []


def test_a_late_result_that_counts_is_noticed(notes):
    notes.says(CALLED).says(BEGAN, number=1).says(BEGAN, number=2, pid=OTHER)
    notes.says(ENDED, number=1)
    assert costs.check_newest(notes.entries) == 1

    with pytest.raises(Broken, match="too late"):
        costs.check_newest(notes.ends(1).entries)


def test_two_with_the_strict_limit_are_noticed(notes):
    notes.says(HELD, number=1).says(FREED, number=1).says(HELD, "a-2", 2, OTHER)
    assert costs.check_strict(notes.entries) == 2

    notes.says(HELD, "a-3", 3).says(FREED, "a-2", 2, OTHER)
    with pytest.raises(Broken, match="a-3 had the strict limit beside a-2"):
        costs.check_strict(notes.entries)


def test_who_says_nothing_more_when_the_next_one_has_the_strict_limit_was_dead(notes):
    notes.says(HELD, number=1).says(HELD, "a-2", 2, OTHER).says(FREED, "a-2", 2, OTHER)
    assert costs.check_strict(notes.entries) == 2

    # It went on, whatever became of it then.
    notes.says(BEGAN, "a-4", 4)
    with pytest.raises(Broken, match="beside"):
        costs.check_strict(notes.entries)


def test_only_calls_since_then_count(notes):
    notes.says(CALLED).says(CALLED, "a-2").says(BEGAN, number=1).says(BEGAN, "a-2", 2)

    assert [e["key"] for e in costs.since(notes.entries, 0.5)] == ["a-2", "a-2"]
