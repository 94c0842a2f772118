"""Peers that say anything at all: the broker answers, stays whole, and never raises."""

from random import Random

import pytest

from tests.broker.conversation import CODE, Conversation, actor_hello, attested
from wire.messages import (
    PROTOCOL,
    ActorBeat,
    Beat,
    Bye,
    Cancel,
    ClientHello,
    Credit,
    Death,
    Frame,
    Function,
    HostBeat,
    HostHello,
    LabelsChanged,
    Outcome,
    Query,
    Reject,
    Release,
    Submit,
    Template,
)
from wire.parts import Call, Environment, Status

ROUNDS = 150


class Liar:
    """Draws commands of every kind, with numbers that are often those of somebody else."""

    def __init__(self, seed):
        self.rng = Random(seed)

    def token(self):
        return (self.rng.choice((1000, 1000, 1000, 7, 2**40)), self.rng.randint(0, 12))

    def number(self):
        return self.rng.choice((0, 1, 2, 3, 4, 5, -1, 2**63 - 1, 2**64 - 1))

    def client(self):
        return self.rng.choice((1, 2, 3, 2**64 - 1))

    def actor(self):
        return self.rng.choice((11, 12, 13))

    def some(self, make, most=4):
        return [make() for _ in range(self.rng.randint(0, most))]

    def call(self):
        rng = self.rng
        return Call(
            "work",
            rng.choice((CODE, b"", b"other")),
            rng.choice(("", "method")),
            rng.choice((None, Environment("e", "E", CODE, {}, rng.choice((1, 0, -5))))),
            [],
            rng.choice(({}, {"slot": 1}, {"slot": -3}, {"gpu": 1})),
            rng.choice((0, 5, 99)),
            at_most_once=rng.random() < 0.3,
        )

    def credit(self):
        rng = self.rng
        amounts = (0, 1, 2, -4, 2**62)
        return Credit(rng.choice(amounts), rng.choice(amounts), rng.choice(amounts), {"e": 1})

    def hello(self):
        rng = self.rng
        match rng.choice("cah"):
            case "c":
                unresolved = self.some(lambda: (self.number(), self.number()))
                return ClientHello(self.client(), "client", "3.11", unresolved)
            case "a":
                held = ("waiting", "running", "released")
                return actor_hello(
                    self.actor(),
                    name=rng.choice(("host/0", "host/1")),
                    holding=self.some(
                        lambda: (self.client(), self.number(), self.token(), rng.choice(held))
                    ),
                    kept=self.some(lambda: (self.client(), self.number(), self.token())),
                )
            case _:
                return HostHello(90, "host", 1, {}, [attested(self.actor())])

    def command(self):
        rng = self.rng
        return rng.choice(
            (
                lambda: Submit(
                    self.number(),
                    rng.choice((0, 1, 9)),
                    b"x",
                    rng.choice((0, 0, 1, -1)),
                    rng.random() < 0.3,
                    self.number(),
                    rng.choice((None, self.token())),
                ),
                lambda: Function(rng.choice((0, 1)), CODE, b"code"),
                lambda: Template(rng.choice((0, 1)), self.call()),
                lambda: Cancel(self.some(self.number), rng.random() < 0.5),
                lambda: Query(1, rng.choice(("status", "explain", "tasks", "x")), "1-1"),
                self.credit,
                lambda: Outcome(*self.token(), rng.choice(list(Status)), b"body"),
                lambda: Release(*self.token()),
                lambda: Reject(*self.token(), "no"),
                lambda: LabelsChanged(self.number(), {"a": 1}),
                lambda: ActorBeat(self.credit(), 1, {}, self.some(self.token)),
                lambda: HostBeat([attested(self.actor())]),
                lambda: Death(
                    self.actor(), None, 9, self.some(self.token), "", self.some(self.token)
                ),
                Beat,
                Bye,
            )
        )()


ROLES = {
    "client": (Submit, Function, Template, Cancel, Query, Beat, Bye),
    "actor": (Credit, Outcome, Release, Reject, LabelsChanged, ActorBeat, Beat, Bye),
    "host": (HostBeat, Death, Beat, Bye),
}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_peers_say_the_broker_stays_whole(seed):
    liar = Liar(seed)
    rng = liar.rng
    talk = Conversation(recovered=rng.random() < 0.5, window_tasks=rng.choice((3, 100)))
    talkers = [talk.client(1), talk.client(2), talk.actor(11), talk.actor(12, name="host/1")]
    talkers.append(talk.host(actors=[attested(11), attested(12)]))
    for _ in range(ROUNDS):
        talker = rng.choice(talkers)
        chance = rng.random()
        if chance < 0.1:
            talk.wait(rng.choice((0.25, 2.0, 6.0)))
        elif chance < 0.2:
            talker.connects()
            talker.greets(epoch=rng.choice((0, talk.broker.epoch)))
        elif chance < 0.25:
            talker.greets(liar.hello())
        elif chance < 0.3:
            numbers = [liar.number() for _ in range(4)]
            epoch = rng.choice((0, talk.broker.epoch))
            commands = [liar.command() for _ in range(rng.randint(1, 3))]
            unsigned = [max(0, number) for number in numbers]
            talker.sends(Frame(PROTOCOL, epoch, *unsigned[:3], commands))
        else:
            session = talk.broker.sessions.get(talker.rid)
            allowed = ROLES[session.role] if session else (Beat,)
            commands = [c for c in (liar.command() for _ in range(12)) if type(c) in allowed][:4]
            if commands:
                payloads = [b"part"] * rng.choice((0, 0, 0, 1))
                talker.says(*commands, payloads=payloads)
    talk.wait(30.0)

    assert all(actor.session is not None for actor in talk.broker.actors.values())
