"""Every event in every state of four machines: assignments, calls, a host's actors, named actors.

Each pair is tried with the real core here, or it is said why it cannot be; what is not rare is
looked for in the fixed seeds as well, and what cannot be must not happen there.
"""

from inspect import signature
from itertools import product

import pytest

from actor.core import ActorCore
from actor.settings import EXIT_SPARE
from actor.settings import Settings as ActorSettings
from sdk.calls.call import Code as Blob
from sdk.calls.call import Owned, Plan
from sdk.calls.call import Settings as ClientSettings
from sdk.core import ClientCore
from tests.actor.test_supervision import Broker as HostsBroker
from tests.broker import test_named, test_named_crashes, test_named_restarts
from tests.broker.conversation import Conversation
from tests.sim.machines import watched
from tests.sim.possible import EVENTS, IMPOSSIBLE, POSSIBLE, SEEN, STATES
from wire.errors import Code
from wire.messages import (
    PROTOCOL,
    Accepted,
    Assign,
    Bye,
    Error,
    Frame,
    Function,
    Kill,
    OutcomeAck,
    Recall,
    Requeued,
    Result,
    Scale,
    Stop,
    Template,
    Welcome,
    Who,
)
from wire.parts import Call, Environment, Failure, Status

pytestmark = pytest.mark.timeout(900)

EPOCH, TOKEN = 1_000, (1_000, 1)
WELCOME = Welcome(1.0, 2.0, 5.0, 0.0, [], 100, 2**20, 2**20, 8, 8)
FAILURE = Failure(Code.ENVIRONMENT_FAILED, "OSError", "x")
PLACE = Environment("e", "E", b"b" * 16)

# --- an assignment in its actor


class Actor:
    """An actor with one slot and the broker's end of its session."""

    def __init__(self, *, place=None):
        settings = ActorSettings(name="h/0", host=90, slots={"slot": 1}, prefetch=1)
        self.core = ActorCore(settings, incarnation=11, now=0.0)
        self.call = Call("f", b"" if place else b"h" * 16, "m" if place else "", place)
        self.numbers = 0
        self.greets()

    def greets(self):
        self.core.tick(self.core.now)
        self.core.flush(self.core.now)
        self.hears(WELCOME, number=0)
        self.sent = 0

    def hears(self, *commands, number=None):
        if number is None:
            self.sent += 1
            number = self.sent
        frame = Frame(PROTOCOL, EPOCH, self.core.session.number, number, 0, list(commands))
        self.core.receive(frame, (), self.core.now)
        self.core.take_starts()
        self.core.check()

    def assign(self, count=1):
        self.hears(
            Function(0, b"h" * 16, b"code"),
            Function(1, b"b" * 16, b"code"),
            Template(0, self.call),
        )
        for _ in range(count):
            self.numbers += 1
            self.hears(Assign(self.numbers, 1, self.numbers, 0, 1, b""))


def actor_in(state, event):
    """Return an actor, and an assignment that stands so."""
    is_entering = state == "entering" or "entered" in event
    actor = Actor(place=PLACE if is_entering else None)
    core, token = actor.core, TOKEN
    if state == "unknown":
        return actor, token
    if state == "waiting":
        actor.assign(2)
        return actor, (EPOCH, 2)
    actor.assign()
    if is_entering and state == "running":
        # It gave its slot back, its environment was evicted meanwhile, and it is inside again.
        core.entered(token, PLACE, 0.5, core.now)
    if state in ("released", "asking"):
        core.release(token, None, core.now)
    if state == "asking":
        actor.numbers = 1
        actor.hears(Assign(2, 1, 2, 0, 1, b""))
        core.reacquire(token, {"slot": 1}, core.now)
    if state == "stopped":
        if event == "reacquire":
            core.release(token, None, core.now)
        actor.hears(Stop(*token))
    if state == "kept":
        core.finished(token, Status.RESULT, b"x", (), 0.1, core.now, None)
    core.check()
    return actor, token


def happens_to_assignment(state, event):
    actor, token = actor_in(state, event)
    core = actor.core
    match event:
        case "ASSIGN":
            actor.assign()
        case "STOP":
            actor.hears(Stop(*token))
        case "RECALL":
            actor.hears(Recall([token]))
        case "OUTCOME-ACK":
            actor.hears(OutcomeAck([token], []))
        case "its end":
            core.finished(token, Status.RESULT, b"x", (), 0.1, core.now, None)
        case "release":
            core.release(token, None, core.now)
        case "reacquire":
            core.reacquire(token, {"slot": 1}, core.now)
        case "entered":
            core.entered(token, PLACE, 0.5, core.now)
        case "not entered":
            core.not_entered(token, FAILURE, core.now)
        case "a new session":
            actor.hears(Who(), number=0)
            actor.greets()
    core.check()


# --- a call in its client


def happens_to_call(state, event):
    core = ClientCore(ClientSettings(), incarnation=1, now=0.0)
    plan = Plan(Call("f", b"h" * 16, durable=event == "ACCEPTED"), [Blob(b"h" * 16, b"code")])
    if state != "here" or "WELCOME" in event:
        greet(core, 0.0)
    core.submit(plan, b"", (), 0.0)
    if state != "here":
        core.flush(0.0)
    if state == "unknown":
        client_hears(core, Result(1, Status.RESULT, b"x", 0, "a", 1), number=1)
    number = 2 if state == "unknown" else 1
    match event:
        case "RESULT":
            client_hears(core, Result(1, Status.RESULT, b"x", 0, "a", 1), number=number)
        case "REQUEUED":
            client_hears(core, Requeued(1, 1, "it was lost"), number=number)
        case "ACCEPTED":
            client_hears(core, Accepted([(1, 1)]), number=number)
        case "cancel":
            core.cancel(1, False, 0.0)
        case "an end of its own":
            ends_of_its_own(core, state)
        case _:
            core.broken(0.0)
            missing = [] if event == "WELCOME that has it" else [(1, 1)]
            greet(core, 0.5, missing=missing)
    core.check()


def ends_of_its_own(core, state):
    """Let a client end a call: since the broker talks to it no more, or twice."""
    if state == "unknown":
        core._fail(Owned(1, Plan(Call("f")), b"", (), None, 0), FAILURE)
        return
    if not core.session.is_open:
        core.tick(0.0)
        core.flush(0.0)
    client_hears(core, Error(Code.NAME_TAKEN, "x", fatal=True), number=0)


def greet(core, now, *, missing=()):
    core.tick(now)
    core.flush(now)
    welcome = Welcome(1.0, 2.0, 5.0, 0.0, list(missing), 100, 2**20, 2**20, 8, 8)
    client_hears(core, welcome, number=0, now=now)


def client_hears(core, command, *, number, now=0.0):
    frame = Frame(PROTOCOL, EPOCH, core.session.number, number, 0, [command])
    core.receive(frame, (), now)


# --- an actor in the care of its host


def happens_to_ward(state, event):
    host = HostsBroker(replicas_max=2, start_timeout_s=5.0)
    core = host.core
    host.open()
    ward = core.wards[1 if state == "spare" else 0]
    if state == "due":
        host.die(ward)
    elif state == "gone":
        host.die(ward, has_left=True)
    assert ward.phase == state
    match event:
        case "a process":
            core.spawned(ward, incarnation=7, pid=7, now=host.now)
        case "no process":
            core.failed(ward, "no memory", host.now)
        case "an end":
            host.die(ward)
        case "an end by order":
            host.die(ward, has_left=True)
        case "an end as one too many":
            host.die(ward, exit_code=EXIT_SPARE)
        case "a start that hangs":
            host.turn(5.0)
        case "KILL":
            host.tell(Kill(ward.incarnation, "x"))
        case "SCALE":
            host.tell(Scale(2, "x"))
        case "drain":
            core.drain(host.now)
    core.check()


# --- a named actor in the broker: tests that show what seeds show too seldom


def it_ends_with_its_client_before_anybody_has_entered_it():
    client = Conversation().client(1).submits(1, call=test_named.entry())
    client.says(Bye("closed"))


ELSEWHERE = {
    ("unknown", "RESIDES"): test_named_restarts.test_a_started_broker_adopts_what_a_process_has,
    ("new", "an end for good"): it_ends_with_its_client_before_anybody_has_entered_it,
    ("here", "RESIDES"): test_named_restarts.test_of_two_holders_the_higher_generation_stays,
    ("here", "an end for good"): test_named.test_it_ends_with_the_client_that_made_it,
    (
        "lost",
        "RESIDES",
    ): test_named_restarts.test_a_process_that_was_lost_and_comes_back_has_to_give_it_up,
    (
        "lost",
        "a call",
    ): test_named_crashes.test_a_process_that_leaves_costs_no_restart_where_there_is_a_checkpoint,
    (
        "lost",
        "a failure to enter",
    ): test_named.test_one_that_cannot_be_entered_is_tried_again_later_and_not_for_ever,
    (
        "lost",
        "an end for good",
    ): test_named.test_without_a_restart_left_it_ends_with_its_process_and_its_name_is_free,
}


HAPPENS = {
    "assignment": happens_to_assignment,
    "call": happens_to_call,
    "ward": happens_to_ward,
}


@pytest.mark.parametrize(
    ("machine", "state", "event"), [one for one in POSSIBLE if one[0] in HAPPENS], ids=str
)
def test_what_is_possible_happens(machine, state, event):
    with watched() as met:
        HAPPENS[machine](state, event)

    assert met[machine, state, event]


@pytest.mark.parametrize("pair", ELSEWHERE, ids=str)
def test_what_seeds_show_too_seldom_of_named_actors_another_test_does(pair):
    test = ELSEWHERE[pair]
    with watched() as met:
        test(*[Conversation() for _ in signature(test).parameters])

    assert met["named", *pair]


def test_each_pair_of_a_named_actor_is_shown_or_impossible():
    pairs = set(product(STATES["named"], EVENTS["named"]))

    assert pairs == SEEN["named"] | ELSEWHERE.keys() | IMPOSSIBLE["named"].keys()


@pytest.mark.slow
def test_what_seeds_must_show_of_four_machines_they_show(fixed):
    counts = fixed.run_all().counts

    assert not [
        (machine, *pair)
        for machine, pairs in SEEN.items()
        for pair in pairs
        if not counts["{} {}: {}".format(machine, *pair)]
    ]


@pytest.mark.slow
def test_what_is_declared_impossible_of_four_machines_never_happens_in_seeds(fixed):
    counts = fixed.run_all().counts

    assert not [
        (machine, *pair)
        for machine, pairs in IMPOSSIBLE.items()
        for pair in pairs
        if counts["{} {}: {}".format(machine, *pair)]
    ]
