"""The short form of the chaos: each scenario once or twice. And what the checker finds."""

import pytest

from tests.chaos import history
from tests.chaos.history import BEGAN, CALLED, ENDED, OUTCOME, Broken, check, note
from tests.chaos.run import batches, table
from tests.chaos.scenarios import SCENARIOS, run

SHORT = [name for name, scenario in SCENARIOS.items() if scenario.short]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SHORT)
def test_what_was_called_has_one_outcome_whatever_happens(name):
    scenario = SCENARIOS[name]

    found = run(scenario, scenario.short, seed=3)

    assert found["result"] > 10


# --- the checker


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history"


def called(path, key="a-1", once=False):
    note(path, what=CALLED, key=key, client="a", once=once)


def ran(path, key="a-1", token=(1, 1), ends=True):
    note(path, what=BEGAN, key=key, token=token)
    if ends:
        note(path, what=ENDED, key=key, token=token)


def ended(path, key="a-1", token=(1, 1), kind="result"):
    note(path, what=OUTCOME, key=key, token=token, kind=kind)


def test_a_history_that_keeps_the_promise(path):
    called(path)
    ran(path, ends=False)
    ran(path, token=(1, 2))
    ended(path, token=(1, 2))

    assert check(path) == {"runs": 2, "again": 1, "result": 1}


def test_a_call_without_an_outcome_is_lost(path):
    called(path)
    with pytest.raises(Broken, match="a-1 is lost"):
        check(path)

    assert check(path, killed_clients=frozenset({"a"}))["client killed"] == 1


def test_a_second_outcome_is_noticed(path):
    called(path)
    ran(path)
    ended(path)
    ended(path)

    with pytest.raises(Broken, match="2 outcomes"):
        check(path)


def test_an_outcome_that_no_run_made_is_noticed(path):
    called(path)
    ran(path)
    ended(path, token=(1, 7))

    with pytest.raises(Broken, match="no run with token"):
        check(path)


def test_a_result_of_a_run_that_did_not_end_is_noticed(path):
    called(path)
    ran(path, ends=False)
    ended(path)

    with pytest.raises(Broken, match="never ended"):
        check(path)


def test_a_second_run_of_what_runs_once_is_noticed(path):
    called(path, once=True)
    ran(path)
    ran(path, token=(1, 2))
    ended(path)

    with pytest.raises(Broken, match="at_most_once"):
        check(path)


def test_a_token_that_begins_twice_is_noticed(path):
    called(path)
    ran(path)
    ran(path)
    ended(path)

    with pytest.raises(Broken, match="twice"):
        check(path)


def test_what_nobody_called_is_noticed(path):
    ran(path, key="b-1")
    with pytest.raises(Broken, match="nobody made"):
        check(path)


def test_who_doubts_needs_no_run(path):
    called(path, once=True)
    ended(path, token=(), kind="OutcomeUnknown")

    assert check(path)["OutcomeUnknown"] == 1


# --- what is counted


def test_batches_come_to_what_is_aimed_at():
    for name, scenario in SCENARIOS.items():
        found = batches(name, 1.0, seed=1, commit="abc")

        assert sum(reps for _, reps, _ in found) == scenario.aim
        assert len({key for key, _, _ in found}) == len(found)


def test_a_batch_that_failed_is_not_counted_as_done():
    one = {"reps": 5, "seed": 1, "seconds": 1.0, "recovered_s": [0.1, 0.3], "result": 9, "runs": 9}
    other = {"reps": 5, "seed": 2, "seconds": 0.0, "recovered_s": [], "failure": "lost"}

    (_, _, row) = table({"L1": [one, other]}).splitlines()

    assert row.startswith(
        "| L1 | broker killed under load | 5 | 1 | 9 | result 9 | 0 | 0.10 / 0.30"
    )


def test_entries_are_whole_lines(path):
    assert history.read(path) == []
    called(path)
    assert [entry["key"] for entry in history.read(path)] == ["a-1"]
