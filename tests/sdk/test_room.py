"""When a client says how much memory it has for an outcome."""

from sdk.calls.room import HELLOS_MAX, Room


def says(room, *wanted, times=1):
    return [room.said(wanted) for _ in range(times)][-1]


def test_it_says_nothing_before_it_has_asked_for_the_same_in_vain():
    room = Room()
    says(room, 1, times=HELLOS_MAX)
    assert not room.is_doubtful

    says(room, 1, 2)

    assert room.is_doubtful


def test_it_says_what_was_measured_until_an_outcome_comes():
    room = Room()
    says(room, 1, 2, times=HELLOS_MAX + 1)
    room.octets = 4096
    assert says(room, 1, 2, 3) == 4096

    assert says(room, 2, 3) == 0
    assert room.octets == 0
    assert not room.is_doubtful


def test_who_wants_nothing_waits_for_nothing():
    room = Room()
    says(room, times=2 * HELLOS_MAX)

    assert not room.is_doubtful
