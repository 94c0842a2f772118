"""Which log lines are written."""

from wire.logs import Seldom


def test_what_others_can_make_happen_without_end_is_told_the_first_tenth_and_hundredth_time():
    seldom = Seldom()

    told = list(seldom.pick([("bad_frame", {"reason": "noise"})] * 1_234))

    counts = [1, 10, 100, 1_000]
    assert told == [("bad_frame", {"count": count, "reason": "noise"}) for count in counts]


def test_all_else_is_told_each_time_and_in_its_order():
    notes = [("connected", {}), ("bad_frame", {}), ("bad_frame", {}), ("connected", {"epoch": 2})]

    assert [event for event, _ in Seldom().pick(notes)] == ["connected", "bad_frame", "connected"]
