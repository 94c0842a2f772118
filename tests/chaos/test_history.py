"""What the checker of the histories finds."""

import pytest

from tests.chaos import history
from tests.chaos.history import ACCEPTED, BEGAN, CALLED, ENDED, OUTCOME, Broken, check, note
from tests.chaos.reading import Reader


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


def test_what_was_accepted_is_lost_without_an_outcome_whoever_was_killed(path):
    called(path)
    note(path, what=ACCEPTED, key="a-1")

    with pytest.raises(Broken, match="a-1 is lost: it was accepted"):
        check(path, killed_clients=frozenset({"a"}))


def test_what_was_accepted_is_not_refused(path):
    called(path)
    note(path, what=ACCEPTED, key="a-1")
    ended(path, token=(), kind="NotDurable")

    with pytest.raises(Broken, match="is refused, and it was accepted"):
        check(path)


def test_what_was_refused_did_not_run(path):
    called(path)
    ended(path, token=(), kind="NotDurable")
    assert check(path)["NotDurable"] == 1

    ran(path)

    with pytest.raises(Broken, match="is refused, and it ran"):
        check(path)


def test_an_unknown_outcome_is_for_calls_that_run_once(path):
    called(path)
    ended(path, token=(), kind="OutcomeUnknown")

    with pytest.raises(Broken, match="may run again"):
        check(path)


def test_an_outcome_is_unknown_when_a_killed_client_has_taken_it(path):
    called(path)
    ran(path)
    note(path, what=OUTCOME, key="a-1", token=(), kind="OutcomeUnknown", was_taken=True)

    assert check(path)["OutcomeUnknown"] == 1


def test_half_an_entry_of_a_killed_client_spoils_nothing(path):
    note(str(path), what=CALLED, key="a-1")
    whole = path.read_text()
    with path.open("a") as file:
        file.write(whole[: len(whole) // 2])
    assert [entry["key"] for entry in history.read(path)] == ["a-1"]

    note(str(path), what=CALLED, key="b-1")

    assert [entry["key"] for entry in history.read(path)] == ["a-1", "b-1"]


def test_entries_are_whole_lines(path):
    assert history.read(path) == []
    called(path)
    assert [entry["key"] for entry in history.read(path)] == ["a-1"]


def test_what_was_read_is_not_read_again(path, monkeypatch):
    """A broker lost both machines while 31,000 entries were read: the proxies got no turn."""
    reader = Reader(path)
    assert reader.entries() == []
    called(path)
    first = reader.entries()
    parsed = []
    loads = history.json.loads
    monkeypatch.setattr(history.json, "loads", lambda line: parsed.append(line) or loads(line))
    with path.open("a") as file:
        file.write('\n{"what": "cut o')
    note(str(path), what=CALLED, key="b-1")

    assert [entry["key"] for entry in reader.entries()] == ["a-1", "b-1"]
    assert len(parsed) == 1
    assert [entry["key"] for entry in first] == ["a-1"]
    assert reader.entries() == history.read(path)
