"""A host starts actors: those that hang, and those that are answered later."""

from math import inf

from actor.supervision import Phase
from tests.actor.test_supervision import Broker


def test_a_start_that_hangs_is_ended_and_tried_again_later_each_time():
    broker = Broker(start_timeout_s=60.0, restart_first_s=1.0, restart_max_s=4.0).open()
    waits = []

    for _ in range(4):
        broker.turn(59.9)
        assert broker.core.take_kills() == []
        assert broker.core.deadline() <= broker.ward.started_at + 60.0
        broker.turn(0.2)
        assert broker.core.take_kills() == [broker.ward]
        broker.die(broker.ward, exit_code=None, signal=9)
        waits.append(broker.core.wards[0].start_at - broker.now)
        broker.turn(waits[-1])

    # It was there for longer than what counts as to have run well.
    assert waits == [1.0, 2.0, 4.0, 4.0]
    notes = [fields for event, fields in broker.core.take_notes() if event.endswith("timed_out")]
    assert [fields["actor"] for fields in notes] == ["h/0"] * 4


def test_a_start_that_is_over_has_no_end():
    broker = Broker(start_timeout_s=60.0).open()
    # As the shell does for whoever has written that it is up.
    broker.ward.start_by = inf

    broker.turn(120.0)

    assert broker.core.take_kills() == []


def test_who_runs_beside_a_start_that_hangs_is_not_to_blame():
    broker = Broker(start_timeout_s=60.0).open()

    broker.turn(60.0)

    assert broker.ward.is_ended


# --- starts that are answered later


def start_without_an_id(broker):
    [ward] = broker.core.take_spawns()
    broker.core.spawned(ward, incarnation=7, pid=0, now=broker.now)
    return ward


def test_an_actor_is_started_once_its_id_is_known():
    broker = Broker()
    broker.core.tick(0.0)
    ward = start_without_an_id(broker)
    assert [event for event, _ in broker.core.take_notes()] == []
    assert broker.core.take_spawns() == []

    broker.core.placed(ward, 70)

    assert broker.core.take_notes() == [("actor_started", {"actor": "h/0", "pid": 70})]
    assert [ward.pid for ward in broker.core.running()] == [70]


def test_a_start_that_came_to_nothing_is_tried_again_later():
    broker = Broker()
    broker.core.tick(0.0)
    ward = start_without_an_id(broker)

    broker.core.failed(ward, "no memory", broker.now)

    assert (ward.phase, ward.start_at) == (Phase.DUE, 0.1)


def test_a_start_that_came_to_nothing_while_the_host_leaves_is_not():
    broker = Broker()
    broker.core.tick(0.0)
    ward = start_without_an_id(broker)
    broker.core.drain(broker.now)

    broker.core.failed(ward, "ended", broker.now)

    assert ward.phase is Phase.GONE
    broker.core.check()


def test_a_start_without_an_id_that_takes_too_long_is_given_up():
    broker = Broker(start_timeout_s=2.0)
    broker.core.tick(0.0)
    ward = start_without_an_id(broker)

    broker.core.tick(2.0)

    assert broker.core.take_kills() == [ward]
