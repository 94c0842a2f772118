import pytest

from actor.machine.board import Runs
from actor.settings import EXIT_FORCED, EXIT_RETIRED, EXIT_SPARE, SIGNAL_DRAIN, HostSettings
from actor.supervision import HostCore, Phase
from wire.messages import (
    PROTOCOL,
    Bye,
    ByeAck,
    Death,
    Drain,
    Error,
    Frame,
    HostBeat,
    HostHello,
    Kill,
    Scale,
    Welcome,
    Who,
)

WELCOME = Welcome(1.0, 2.0, 5.0, 0.0, [], 1, 1, 1, 1, 1)
EPOCH = 9


class Broker:
    """The broker's end of a host's session, and the host's shell."""

    def __init__(self, replicas=1, **settings):
        self.core = HostCore(
            HostSettings(name="h", replicas=replicas, **settings), incarnation=5, pid=50, now=0.0
        )
        self.now = 0.0
        self.number = 0
        self.sent = 0
        self.heard = []
        self.incarnation = 100
        self.epoch = EPOCH

    def turn(self, seconds=0.0):
        self.now += seconds
        self.core.tick(self.now)
        for ward in self.core.take_spawns():
            self.incarnation += 1
            self.core.spawned(ward, incarnation=self.incarnation, pid=1, now=self.now)
        frames = self.core.flush(self.now)
        self.core.check()
        for frame in frames:
            self.heard += frame.commands
            if frame.number:
                self.received = frame.number
            else:
                self.received = 0
        return [command for frame in frames for command in frame.commands]

    def open(self):
        self.turn()
        self.sent = 0
        self.tell_outside(WELCOME)
        return self

    def tell_outside(self, command):
        session = self.core.session.number
        self.core.receive(Frame(PROTOCOL, self.epoch, session, 0, 0, [command]), self.now)

    def tell(self, *commands, received=None):
        self.sent += 1
        got = self.received if received is None else received
        session = self.core.session.number
        self.core.receive(Frame(PROTOCOL, EPOCH, session, self.sent, got, commands), self.now)

    def die(self, ward, **end):
        runs = Runs(*(end.pop(name, []) for name in Runs._fields))
        told = {"exit_code": 1, "signal": None, "runs": runs, "overflow": 0, "has_left": False}
        self.core.died(ward, **{**told, "is_starved": False, **end}, now=self.now)

    @property
    def ward(self):
        return self.core.wards[0]


def test_hello_lists_the_actors():
    broker = Broker(replicas=2)

    (hello,) = broker.turn()

    assert isinstance(hello, HostHello)
    assert [actor.name for actor in hello.actors] == ["h/0", "h/1"]


def test_a_heartbeat_says_what_was_observed():
    broker = Broker().open()
    broker.core.observed(broker.ward, cpu_s=3.5, is_stopped=True)

    (beat,) = broker.turn(1.0)

    assert isinstance(beat, HostBeat)
    assert (beat.actors[0].cpu_s, beat.actors[0].stopped) == (3.5, True)


def test_readings_are_wanted_before_each_heartbeat_only():
    broker = Broker().open()
    broker.core.tick(0.5)
    assert not broker.core.wants_readings

    broker.core.tick(1.0)

    assert broker.core.wants_readings


def test_a_death_is_said_once_and_kept_until_it_was_received():
    broker = Broker().open()
    broker.die(broker.ward, exit_code=None, signal=9, started=[(1, 2)])
    (death,) = broker.turn()
    assert death == Death(101, None, 9, [(1, 2)])
    assert broker.turn() == []

    broker.tell(received=0)
    broker.tell_outside(Who())
    broker.turn()
    broker.sent = 0
    broker.tell_outside(WELCOME)

    assert death in broker.turn()


def test_a_death_that_was_received_is_forgotten():
    broker = Broker().open()
    broker.die(broker.ward)
    broker.turn()
    broker.tell(Kill(0, ""))
    broker.tell_outside(Who())
    broker.turn()
    broker.sent = 0
    broker.tell_outside(WELCOME)

    assert broker.turn() == []


def test_a_death_without_a_broker_is_said_when_there_is_one():
    broker = Broker()
    broker.turn()
    broker.die(broker.ward)

    broker.open()

    assert any(isinstance(command, Death) for command in broker.turn())


def test_an_overflow_of_the_board_is_told():
    broker = Broker().open()
    broker.die(broker.ward, overflow=3)

    (death,) = broker.turn()

    assert "3 more" in death.reason


def test_that_memory_was_used_up_is_told_with_a_death():
    broker = Broker().open()
    broker.die(broker.ward, exit_code=None, signal=9, is_starved=True)

    (death,) = broker.turn()

    assert (death.signal, death.reason) == (9, "the kernel ended it, as memory was used up")


def test_each_restart_waits_twice_as_long():
    broker = Broker(restart_first_s=0.1, restart_max_s=0.4).open()
    waits = []
    for _ in range(5):
        broker.die(broker.ward)
        waits.append(round(broker.ward.start_at - broker.now, 3))
        broker.turn(1.0)
        assert broker.ward.phase is Phase.RUNNING

    assert waits == [0.1, 0.2, 0.4, 0.4, 0.4]


def test_one_that_was_ended_for_a_run_that_did_not_return_waits_no_longer_the_next_time():
    broker = Broker(restart_first_s=0.1, restart_max_s=0.4).open()
    waits = []
    for code in (1, 1, EXIT_FORCED, EXIT_FORCED, EXIT_FORCED):
        broker.die(broker.ward, exit_code=code)
        waits.append(round(broker.ward.start_at - broker.now, 3))
        broker.turn(1.0)

    assert waits == [0.1, 0.2, 0.1, 0.1, 0.1]


def test_one_that_ran_well_is_restarted_at_once():
    broker = Broker(ran_well_s=10.0).open()
    for _ in range(4):
        broker.die(broker.ward)
        broker.turn(5.0)
    broker.turn(10.0)

    broker.die(broker.ward)
    assert broker.ward.start_at == broker.now
    broker.turn()

    broker.die(broker.ward)

    # Only once: this one did not.
    assert round(broker.ward.start_at - broker.now, 3) == 0.1


def test_no_process_is_started_before_its_time():
    broker = Broker().open()
    broker.die(broker.ward)

    broker.turn(0.05)

    assert broker.ward.phase is Phase.DUE
    assert broker.core.deadline() == broker.ward.start_at


def test_a_start_that_fails_is_tried_again():
    broker = Broker()
    broker.core.failed(broker.ward, "no memory", 0.0)

    assert broker.ward.phase is Phase.DUE
    assert broker.ward.start_at == 0.1


def test_kill_names_an_incarnation():
    broker = Broker().open()

    broker.tell(Kill(77, "unknown"))
    assert broker.core.take_kills() == []
    broker.tell(Kill(101, "silent"))

    assert broker.core.take_kills() == [broker.ward]


def test_a_kill_of_one_that_has_died_meanwhile_hits_nobody():
    broker = Broker().open()
    broker.tell(Kill(101, "silent"))
    broker.die(broker.ward)

    assert broker.core.take_kills() == []


def test_a_drain_asks_all_to_leave_and_then_says_bye():
    broker = Broker(replicas=2).open()

    broker.tell(Drain(30.0))
    assert broker.core.take_drains() == broker.core.wards
    assert broker.turn() == []
    for ward in broker.core.wards:
        broker.die(ward, exit_code=0, has_left=True)

    assert isinstance(broker.turn()[-1], Bye)
    assert not broker.core.is_over
    broker.tell(ByeAck())
    assert broker.core.is_over
    assert broker.core.failure is None


def test_a_drain_has_a_time_limit():
    broker = Broker().open()
    broker.core.drain(broker.now, 5.0)

    broker.turn(5.0)

    assert broker.core.take_kills() == [broker.ward]


def test_none_is_started_again_while_draining():
    broker = Broker(replicas=2).open()
    broker.die(broker.core.wards[0])

    broker.core.drain(broker.now)
    broker.die(broker.core.wards[1])

    assert {ward.phase for ward in broker.core.wards} == {Phase.GONE}


def test_without_a_broker_a_drained_host_is_over():
    broker = Broker()
    broker.turn()
    broker.core.drain(0.0)
    broker.die(broker.ward, has_left=True)

    assert broker.core.is_over


def test_one_that_left_by_order_stays_away():
    broker = Broker(replicas=2).open()

    broker.die(broker.ward, exit_code=0, has_left=True)

    assert broker.ward.phase is Phase.GONE
    assert not broker.core.is_over


def test_a_broker_that_refuses_ends_the_host():
    broker = Broker()
    broker.turn()

    broker.tell_outside(Error("protocol-mismatch", "too old", fatal=True))

    assert broker.core.is_over
    assert broker.core.failure.message == "too old"


def test_an_error_that_is_not_fatal_is_noted():
    broker = Broker().open()

    broker.tell_outside(Error("bad-frame", "what", fatal=False))

    assert not broker.core.is_over
    assert "told_of_error" in [event for event, _ in broker.core.take_notes()]


def test_a_death_says_how_each_run_stood():
    broker = Broker().open()

    broker.die(broker.ward, started=[(1, 1)], finished=[(1, 2)], entering=[(1, 3)], beside=[(1, 4)])

    (death,) = broker.turn()
    assert (death.started, death.finished) == ([(1, 1)], [(1, 2)])
    assert (death.entering, death.beside) == ([(1, 3)], [(1, 4)])


def test_a_process_that_the_host_ends_after_a_drain_was_ended_by_its_host():
    broker = Broker().open()
    assert not broker.ward.is_ended

    broker.core.drain(broker.now, 1.0)
    broker.turn(2.0)

    assert broker.core.take_kills() == [broker.ward]
    assert broker.ward.is_ended


def phases(broker):
    return [ward.phase for ward in broker.core.wards]


def test_spare_actors_are_started_on_the_word_of_the_broker_and_never_above_the_maximum():
    broker = Broker(replicas=1, replicas_max=3).open()
    broker.turn()
    assert phases(broker) == [Phase.RUNNING, Phase.SPARE, Phase.SPARE]

    broker.tell(Scale(2, "tasks wait"))
    broker.turn()
    assert phases(broker) == [Phase.RUNNING, Phase.RUNNING, Phase.SPARE]
    broker.tell(Scale(2), Scale(1))
    broker.turn()
    assert phases(broker) == [Phase.RUNNING, Phase.RUNNING, Phase.SPARE]
    broker.tell(Scale(9))
    broker.turn()

    assert phases(broker) == [Phase.RUNNING] * 3


def test_an_actor_that_was_let_go_may_be_started_again_but_the_minimum_is_kept():
    broker = Broker(replicas=1, replicas_max=2).open()
    broker.turn()
    broker.tell(Scale(2))
    broker.turn()

    broker.die(broker.core.wards[1], exit_code=EXIT_SPARE)
    broker.turn(1.0)
    assert phases(broker) == [Phase.RUNNING, Phase.SPARE]

    broker.die(broker.ward, exit_code=EXIT_SPARE)
    broker.turn(1.0)
    assert phases(broker) == [Phase.RUNNING, Phase.SPARE]


def test_an_actor_that_an_operator_drained_stays_away():
    broker = Broker(replicas=1, replicas_max=2).open()
    broker.turn()
    broker.tell(Scale(2))
    broker.turn()

    broker.die(broker.core.wards[1], exit_code=0, has_left=True)
    broker.tell(Scale(2))
    broker.turn(1.0)

    assert phases(broker) == [Phase.RUNNING, Phase.GONE]


def test_a_host_without_actors_waits_for_the_word_of_the_broker():
    broker = Broker(replicas=0, replicas_max=1).open()
    broker.turn()
    assert not broker.core.is_over
    [hello] = [command for command in broker.heard if isinstance(command, HostHello)]
    assert (hello.actors_min, hello.actors_max, hello.slots) == (0, 1, {"slot": 1})

    broker.core.drain(broker.now)
    broker.turn()

    assert phases(broker) == [Phase.GONE]


def test_an_actor_that_retired_is_followed_at_once():
    broker = Broker().open()
    broker.turn()
    broker.die(broker.ward)
    broker.turn(0.1)

    broker.die(broker.ward, exit_code=EXIT_RETIRED)

    assert broker.ward.start_at == broker.now


@pytest.mark.parametrize(
    ("waited_s", "end", "why"),
    [
        (0.9, {"exit_code": EXIT_RETIRED}, "drained"),
        (1.1, {"exit_code": EXIT_FORCED}, "cut short"),
        # It was about to start: the signal ended it.
        (0.1, {"exit_code": None, "signal": SIGNAL_DRAIN}, "drained"),
    ],
)
def test_a_host_knows_whether_its_drain_was_cut_short(waited_s, end, why):
    broker = Broker().open()
    broker.turn()
    broker.core.drain(broker.now, 1.0)

    broker.turn(waited_s)
    broker.die(broker.ward, **end)

    assert broker.core.has_timed_out is (why == "cut short")
    assert broker.ward.phase is Phase.GONE
    [left] = [fields for event, fields in broker.core.take_notes() if event == "actor_left"]
    assert left == {"actor": broker.ward.name, "reason": why, "started": 0}


@pytest.mark.parametrize(
    ("drains", "end", "why"),
    [
        (False, {}, "a run did not return"),
        (True, {}, "the time to drain was over"),
        # A task may end its process with any status.
        (False, {"started": [(1, 1)]}, ""),
        (False, {"overflow": 2}, "a run did not return"),
    ],
)
def test_why_a_process_was_ended_by_force_is_told_with_its_death(drains, end, why):
    broker = Broker().open()
    broker.turn()
    if drains:
        broker.core.drain(broker.now, 1.0)

    broker.die(broker.ward, exit_code=EXIT_FORCED, **end)

    (death,) = [command for command in broker.turn(0.1) if isinstance(command, Death)]
    assert death.reason == why


@pytest.mark.parametrize(
    ("end", "event", "why"),
    [
        ({"exit_code": 0, "has_left": True}, "actor_left", "drained"),
        ({"exit_code": EXIT_RETIRED}, "actor_left", "retired"),
        ({"exit_code": EXIT_SPARE}, "actor_left", "not needed"),
        # As a user's code may exit, too.
        ({"exit_code": EXIT_SPARE, "started": [(1, 1)]}, "actor_died", None),
        ({"exit_code": 1}, "actor_died", None),
    ],
)
def test_one_that_goes_by_itself_is_not_said_to_have_died(end, event, why):
    broker = Broker().open()
    broker.turn()
    broker.core.take_notes()

    broker.die(broker.ward, **end)

    told = [(name, fields.get("reason")) for name, fields in broker.core.take_notes()]
    assert told == [(event, why)]
