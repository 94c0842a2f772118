"""Over a share of the memory an actor takes nothing new, until clearly less is used."""

from actor.granting.pressure import Pressure
from tests.actor.broker_end import connected, make_core
from wire.messages import ActorBeat, Reject


def test_it_is_high_from_the_bound_on_and_over_when_it_is_clearly_below():
    pressure = Pressure(0.8)
    shares = (0.5, 0.79, 0.8, 0.79, 0.77, 0.75, 0.79, 0.9)

    seen = [(pressure.look(share, "machine"), pressure.is_high) for share in shares]

    assert [is_high for _, is_high in seen] == [False, False, True, True, True, False, False, True]
    assert [share for share, (news, _) in zip(shares, seen, strict=True) if news] == [
        0.8,
        0.75,
        0.9,
    ]


def test_the_reason_says_what_is_full_and_how_full():
    pressure = Pressure(0.8)

    pressure.look(0.934, "cgroup")
    assert pressure.reason == "memory: 93% of the cgroup is used, over --memory-high 80%"
    pressure.look(0.1, "cgroup")
    assert pressure.reason == ""


def test_the_bound_is_told_as_it_was_set():
    """Of one in between it was told that 10% is over 10%."""
    pressure = Pressure(0.0973)

    pressure.look(0.1, "machine")

    assert pressure.reason == "memory: 10% of the machine is used, over --memory-high 9.73%"


def test_switched_off_it_is_never_high():
    pressure = Pressure(None)

    assert not pressure.look(1.0, "machine")
    assert not pressure.is_high


def test_an_actor_under_pressure_hands_back_and_grants_nothing_until_it_is_over():
    end = connected(make_core(slots=1, prefetch=2, memory_high=0.9))
    running, waiting = end.assign(), end.assign()
    end.carry()

    end.core.press(0.95, "machine", end.now)
    end.carry()

    reason = "memory: 95% of the machine is used, over --memory-high 90%"
    assert list(end.started) == [running]
    assert end.rejected == {waiting: reason}
    assert not any(reject.bars for reject in end.everything if isinstance(reject, Reject))
    assert [c.closed for c in end.everything if isinstance(c, ActorBeat)] == [reason]
    end.finish(running)
    end.carry()
    assert end.available == 0

    end.core.press(0.88, "machine", end.now)
    end.carry()
    assert end.available == 0
    end.core.press(0.5, "machine", end.now)
    end.carry()
    assert (end.credit.free, end.credit.ahead) == (1, 2)


def test_a_change_is_noted_once():
    core = make_core(memory_high=0.9)

    for share in (0.5, 0.95, 0.96, 0.97, 0.5, 0.4):
        core.press(share, "machine", 0.0)

    notes = [fields["high"] for event, fields in core.take_notes() if event == "memory"]
    assert notes == [True, False]
