"""The short ways of a task that comes alone and of a client that is alone, beside the long one."""

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from broker.facts.task import State
from broker.waiting.shapes import Shape
from tests.broker import test_named as named
from tests.broker.conversation import CODE, Conversation
from tests.broker.test_environments import place
from wire.labels import Comparator, Desire
from wire.messages import Assign, Cancel, Credit, Function, Outcome, Reject, Submit, Template
from wire.parts import Call, Status

CALLS = (
    Call("plain", CODE),
    Call("urgent", CODE, priority=2),
    Call("picky", CODE, desires=[Desire("zone", Comparator.EQUAL, "eu")]),
    Call("large", CODE, slots={"slot": 2}),
    Call("warm", CODE, environment=place(0, 2, identity="e", idle_ttl_s=9.0)),
    Call("kept", CODE, environment=place(1, 1, identity="f", idle_ttl_s=9.0)),
    named.call(),
)
NAMED = CALLS.index(named.call())
KINDS = st.lists(
    st.sampled_from([0, 0, 0, 1, 2, 3, 4, 4, 4, 5, NAMED, NAMED]), min_size=1, max_size=6
)
MOVES = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 1), KINDS),
    st.tuples(st.just("credit"), st.integers(0, 1), st.integers(1, 6)),
    st.tuples(
        st.just("warm"),
        st.integers(0, 1),
        st.tuples(st.integers(0, 2), st.booleans(), st.booleans()),
    ),
    st.tuples(st.just("end"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 1), st.integers(1, 9)),
)
# What comes in one turn, after which the broker speaks.
TURNS = st.lists(st.lists(MOVES, min_size=1, max_size=2), min_size=5, max_size=20)


@dataclass
class Side:
    """One broker with its peers; whether each task stands in line and is looked at for itself.

    And whether an actor that is as it was is ranked anew with each of its statements.
    """

    stands_in_line: bool = False
    is_ranked_anew: bool = False

    def __post_init__(self) -> None:
        self.talk = Conversation()
        self.clients = [self.talk.client(one) for one in (1, 2)]
        self.actors = [
            self.talk.actor(11, name="h/0", labels={"zone": "eu"}),
            self.talk.actor(12, name="h/1", labels={"zone": "us"}),
        ]
        for client in self.clients:
            client.says(Function(0, CODE, b""), *(Template(n, c) for n, c in enumerate(CALLS)))
        self.submitted = [1, 0]
        self.running: list[list[tuple[int, int]]] = [[], []]
        # The first call of the first client makes a named actor, on the first actor.
        self.clients[0].says(
            Function(1, named.BLOB, b""),
            Template(len(CALLS), named.entry()),
            Submit(1, len(CALLS), b""),
        )
        self.moves("credit", 0, 1)
        self.flushes()
        self.moves("end", 0, True)
        self.moves("credit", 0, 0)
        self.flushes()

    def moves(self, what: str, who: int, how: Any) -> None:
        client, actor = self.clients[who], self.actors[who]
        if what == "submit":
            first = self.submitted[who] + 1
            self.submitted[who] += len(how)
            for number, template in enumerate(how, first):
                self.says(client, Submit(number, template, b""))
        elif what == "credit":
            self.says(actor, Credit(how))
        elif what == "warm":
            free, is_kept, is_busy = how
            turns = {"e": free > 0} | ({"f": free > 1} if is_kept else {})
            # A named actor is stated while somebody is inside.
            turns |= {named.ID: False} if is_busy and who == 0 else {}
            self.says(actor, Credit(free, 0, 1, {name: int(n) for name, n in turns.items()}))
        elif what == "end" and self.running[who]:
            epoch, number = self.running[who].pop(0)
            ended: object = Outcome(epoch, number, Status.RESULT, b"")
            self.says(actor, ended if how else Reject(epoch, number, "no"))
        elif what == "cancel":
            self.says(client, Cancel([how]))

    def says(self, talker: Any, command: object) -> None:
        if self.is_ranked_anew:
            for actor in self.talk.broker.actors.values():
                actor.ranked_as = None
        talker.says(command, silently=True)
        if self.stands_in_line:
            self.talk.broker.backlog.line_up()

    def flushes(self) -> None:
        if self.stands_in_line:
            with patch.object(Shape, "lone_lane", lambda _: None):
                self.talk.flush()
        else:
            self.talk.flush()
        for running, actor in zip(self.running, self.actors, strict=True):
            epoch = self.talk.broker.epoch
            running += [(epoch, assign.number) for assign in actor.takes(Assign)]

    def is_tied(self) -> bool:
        """Tell whether tasks of two kinds that wait have one rank."""
        waiting = {
            (task.rank, id(task.template.shape))
            for client in self.talk.broker.clients.values()
            for task in client.tasks.values()
            if task.state is State.QUEUED and task.template
        }
        return len({rank for rank, _ in waiting}) < len(waiting)

    def knows(self) -> Any:
        """Return what is told, and what the broker has of everything."""
        broker = self.talk.broker
        peers = [*self.clients, *self.actors]
        return (
            [[(frame.number, command) for frame, command, _ in peer.heard] for peer in peers],
            self.running,
            [(a.credit.available, a.used_at, sorted(a.assigned)) for a in broker.actors.values()],
            [
                (task.number, task.state, task.rank, task.token, task.frame)
                for client in broker.clients.values()
                for task in client.tasks.values()
            ],
            [
                (one.hits, one.called_at, [(c.number, c.idle_since) for c in one.copies.values()])
                for one in broker.environments.records.values()
            ],
            broker.backlog.served,
            broker.backlog.count,
        )


@given(TURNS)
def test_who_is_alone_is_placed_as_if_he_stood_in_line(turns):
    alone, in_line = Side(), Side(stands_in_line=True)

    for turn in turns:
        for side in (alone, in_line):
            for move in turn:
                side.moves(*move)
        is_tied = alone.is_tied()
        for side in (alone, in_line):
            side.flushes()

        if alone.knows() != in_line.knows():
            # Of two kinds with one rank either may be first, and everything behind them differs.
            assert is_tied
            return


@given(TURNS)
def test_who_is_as_he_was_is_placed_as_if_he_were_ranked_anew(turns):
    known, anew = Side(), Side(is_ranked_anew=True)

    for turn in turns:
        for side in (known, anew):
            for move in turn:
                side.moves(*move)
            side.flushes()

        assert known.knows() == anew.knows()


def test_an_actor_that_states_what_it_stated_is_not_ranked_again():
    side = Side()
    side.moves("credit", 0, 1)
    side.moves("submit", 0, [0])
    side.flushes()
    side.moves("end", 0, True)
    side.moves("credit", 0, 1)
    actor = side.talk.broker.actors[11]
    assert actor.ranked_as is not None
    crews = [crew for crew in actor.crews if crew.ranking is not None]
    assert crews

    with patch.object(type(crews[0]), "improve", None):
        side.moves("credit", 0, 1)
    side.moves("submit", 0, [0])
    side.flushes()

    assert len(side.running[0]) == 1


def test_the_only_task_stands_in_no_heap_before_it_is_placed():
    side = Side()
    side.moves("credit", 0, 1)
    side.flushes()

    side.moves("submit", 0, [0])
    backlog = side.talk.broker.backlog

    assert backlog.newcomer is not None
    assert not backlog.ready
    side.flushes()
    assert backlog.newcomer is None
    assert len(side.running[0]) == 1


def is_placed_alone(side):
    """Check that what was submitted is placed by itself, and was in no heap before."""
    backlog = side.talk.broker.backlog
    assert backlog.newcomer is not None
    side.flushes()
    assert backlog.newcomer is None
    assert not backlog.ready
    assert len(side.running[0]) == 1


def test_the_only_task_of_a_warm_environment_stands_in_no_heap_before_it_is_placed():
    side = Side()
    side.moves("warm", 0, (1, False, False))
    side.flushes()

    side.moves("submit", 0, [4])
    is_placed_alone(side)
    assert side.talk.broker.environments.records["e"].called_at == side.talk.now


def test_the_only_call_of_a_named_actor_stands_in_no_heap_before_it_is_placed():
    side = Side()
    side.moves("credit", 0, 1)
    side.flushes()

    side.moves("submit", 1, [NAMED])
    is_placed_alone(side)


def test_the_only_call_of_a_named_actor_waits_for_its_turn():
    side = Side()
    side.moves("warm", 0, (1, False, True))
    side.moves("warm", 1, (1, False, False))
    side.flushes()

    side.moves("submit", 1, [NAMED])
    side.flushes()

    assert side.running == [[], []]
    side.moves("warm", 0, (1, False, False))
    side.flushes()
    assert len(side.running[0]) == 1
