"""Placement against the rule taken literally: every task, every actor, at each step anew.

Nothing here knows of crews, queues or rankings. What the broker assigned is followed in its order,
and each assignment must be the one that the rule names; at the end of a turn nothing is left that
the rule would assign.
"""

from random import Random

import pytest

from tests.broker.conversation import CODE, Conversation
from wire.labels import Comparator, Desire, satisfies
from wire.messages import (
    Assign,
    Bye,
    Cancel,
    Credit,
    Function,
    LabelsChanged,
    Outcome,
    Reject,
    Submit,
    Template,
)
from wire.parts import Call, Environment, Status

ZONES = ("eu", "us", "ap")
MODELS = ("a", "b", "c", 1, 1.0, True)
MEMORIES = (0, 64, 256.0, 512, "512", False)


def a_desire(random):
    required = random.random() < 0.6
    weight = random.choice((100, 5, 5, 0.1, 0.2, -5))
    key = random.choice(("zone", "model", "memory", "nobody"))
    values = {"zone": ZONES, "model": MODELS, "memory": MEMORIES, "nobody": (1, "x")}[key]
    kind = random.random()
    if key == "memory" and kind < 0.5:
        order = random.choice(("gt", "ge", "lt", "le"))
        return Desire(key, Comparator(order), random.choice((64, 256, 300.5)), required, weight)
    if kind < 0.6:
        return Desire(key, Comparator.EQUAL, random.choice(values), required, weight)
    if kind < 0.7:
        return Desire(key, Comparator.NOT_EQUAL, random.choice(values), required, weight)
    if kind < 0.8:
        several = random.sample(values, 2)
        name = random.choice((Comparator.IN, Comparator.NOT_IN))
        return Desire(key, name, several, required, weight)
    name = random.choice((Comparator.EXISTS, Comparator.NOT_EXISTS))
    return Desire(key, name, None, required, weight)


def some_labels(random):
    labels = {}
    if random.random() < 0.7:
        labels["zone"] = random.choice(ZONES)
    if random.random() < 0.7:
        several = random.sample(MODELS, 2) if random.random() < 0.3 else random.choice(MODELS)
        labels["model"] = several
    if random.random() < 0.7:
        labels["memory"] = random.choice(MEMORIES)
    return labels


def a_call(random):
    desires = [a_desire(random) for _ in range(random.choice((0, 0, 1, 1, 2, 3)))]
    kind = random.random()
    environment = None
    if kind < 0.4:
        environment = Environment(random.choice("efg"), "Env", CODE)
    return Call(
        "work",
        CODE if environment is None else b"",
        "" if environment is None else "m",
        environment,
        desires,
        {"gpu": 1} if kind > 0.85 else {},
        random.choice((-1, 0, 0, 2)),
        at_most_once=random.random() < 0.2,
        affinity_wait_s=0.0,
    )


class Offer:
    """An actor as the rule sees it."""

    def __init__(self, talker, labels, slots):
        self.talker = talker
        self.labels = labels
        self.slots = slots
        self.version = 1
        self.state(Credit(0))
        self.used_at = 0
        self.holds = {}

    def state(self, credit):
        """Begin anew from what is stated; all that was assigned has arrived."""
        self.credit = credit
        self.given = []

    @property
    def available(self):
        plain = sum(call.slots == {} for call in self.given)
        return max(0, self.credit.free + self.credit.ahead - plain)

    def has_slots(self, call):
        if call.slots:
            gpus = sum(bool(one.slots) for one in self.given)
            return self.credit.typed.get("gpu", 0) > gpus
        return self.credit.free > sum(not one.slots for one in self.given)

    def entered(self, name):
        return sum(one.environment is not None and one.environment.id == name for one in self.given)

    def is_warm(self, call):
        name = call.environment.id
        return self.credit.turns.get(name, 0) > self.entered(name)

    def starts(self, call):
        """Tell whether a task would start at once."""
        if not self.has_slots(call):
            return False
        if call.environment is None or self.is_warm(call):
            return True
        name = call.environment.id
        cold = sum(
            one.environment is not None and one.environment.id not in self.credit.turns
            for one in self.given
        )
        is_resident = name in self.credit.turns or self.entered(name)
        return not is_resident and self.credit.room > cold

    def may_wait(self, call):
        """Tell whether a task may wait ahead."""
        if call.at_most_once or call.slots or not self.available:
            return False
        if call.environment is None:
            return True
        return self.credit.ahead > 0 and call.environment.id in self.credit.turns

    def key(self, call):
        """Return how good the choice is by the rule, None where it is none."""
        if any(self.slots.get(kind, 0) < n for kind, n in call.slots.items()):
            return None
        if not all(satisfies(self.labels, d) for d in call.desires if d.required):
            return None
        if not self.starts(call) and not self.may_wait(call):
            return None
        liked = [d.weight for d in call.desires if not d.required and satisfies(self.labels, d)]
        is_warm = call.environment is not None and self.is_warm(call)
        return (self.starts(call), is_warm, sum(liked), self.available, -self.used_at)


class Literal:
    """A broker, and beside it the tasks and actors from which the rule is worked out."""

    def __init__(self, seed):
        self.random = Random(seed)
        self.talk = Conversation()
        self.calls = [a_call(self.random) for _ in range(self.random.randint(1, 8))]
        self.clients = [self.talk.client(n) for n in (1, 2)]
        for client in self.clients:
            templates = (Template(n, call) for n, call in enumerate(self.calls))
            client.says(Function(0, CODE, b"code"), *templates)
        self.offers = []
        self.queued = {}
        self.barred = {}
        self.serial = 20
        self.number = 0

    def step(self):
        """Let a few things happen, then compare what the broker assigns."""
        for _ in range(self.random.choice((1, 1, 1, 3))):
            steps = (self.submit, self.submit, self.state, self.state, self.end, self.flip)
            rare = (self.join, self.leave, self.reject, self.cancel)
            name = self.random.choice(steps if self.random.random() < 0.8 else rare)
            name()
        self.flush()

    def says(self, talker, *commands):
        """Say something that the broker does not answer yet."""
        talker.says(*commands, silently=True)

    def submit(self):
        client = self.random.choice(self.clients)
        at = self.random.randrange(len(self.calls))
        for _ in range(self.random.choice((1, 1, 5))):
            self.number += 1
            self.says(client, Submit(self.number, at, b""))
            task = self.talk.task(client, self.number)
            self.queued[self.number] = task

    def state(self, *commands, offer=None):
        if not self.offers:
            return
        offer = offer or self.random.choice(self.offers)
        pick = self.random.choice
        turns = {name: pick((0, 1, 2)) for name in "efg" if self.random.random() < 0.4}
        typed = {"gpu": pick((0, 1, 2))} if "gpu" in offer.slots else {}
        credit = Credit(pick((0, 1, 1, 2)), pick((0, 0, 1, 3)), pick((0, 1, 2)), turns, typed)
        offer.state(credit)
        self.says(offer.talker, *commands, credit)

    def end(self):
        for offer in self.offers:
            if offer.holds:
                number = self.random.choice(list(offer.holds))
                del offer.holds[number]
                self.says(offer.talker, Outcome(1000, number, Status.RESULT, b""))
                self.state(offer=offer)
                return

    def flip(self):
        if self.offers:
            offer = self.random.choice(self.offers)
            offer.labels = some_labels(self.random)
            offer.version += 1
            self.says(offer.talker, LabelsChanged(offer.version, offer.labels))

    def join(self):
        self.serial += 1
        labels = some_labels(self.random)
        slots = {"slot": 2} | ({"gpu": 1} if self.random.random() < 0.5 else {})
        talker = self.talk.actor(self.serial, name=f"h/{self.serial}", labels=labels, slots=slots)
        self.offers.append(Offer(talker, labels, slots))
        # The broker has spoken.
        self.compare()
        self.state(offer=self.offers[-1])

    def leave(self):
        if self.offers:
            offer = self.offers.pop(self.random.randrange(len(self.offers)))
            for task in offer.holds.values():
                self.queued[task.number] = task
            self.says(offer.talker, Bye("enough"))

    def reject(self):
        for offer in self.offers:
            if offer.holds:
                number, task = offer.holds.popitem()
                self.says(offer.talker, Reject(1000, number, "no"))
                self.barred[task.number, offer] = offer.version
                self.queued[task.number] = task
                self.state(offer=offer)
                return

    def cancel(self):
        if self.queued:
            number = self.random.choice(list(self.queued))
            task = self.queued.pop(number)
            client = self.clients[task.client.incarnation - 1]
            self.says(client, Cancel([number]))

    def flush(self):
        self.talk.flush()
        self.compare()

    # --- the rule

    def key(self, task, offer):
        if self.barred.get((task.number, offer)) == offer.version:
            return None
        return offer.key(task.call)

    def best(self, task):
        keys = [key for offer in self.offers if (key := self.key(task, offer)) is not None]
        return max(keys, default=None)

    def compare(self):
        given = [(a.number, offer, a) for offer in self.offers for a in offer.talker.takes(Assign)]
        for number, offer, assign in sorted(given, key=lambda one: one[0]):
            task = self.queued.pop(assign.task)
            better = [one for one in self.queued.values() if one.rank < task.rank]
            assert all(self.best(one) is None for one in better), "a later task goes first"
            assert self.key(task, offer) == self.best(task), "another actor is better"
            offer.given.append(task.call)
            offer.used_at = number
            offer.holds[number] = task
        assert all(self.best(task) is None for task in self.queued.values()), "one is overlooked"


def run(seed, steps):
    literal = Literal(seed)
    for _ in range(steps):
        literal.step()


@pytest.mark.parametrize("block", range(10))
def test_each_assignment_is_the_one_that_the_rule_names(block):
    for seed in range(block * 5, block * 5 + 5):
        run(seed, 60)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_it_is_so_in_hundreds_of_cases(block):
    for seed in range(1_000 + block * 30, 1_000 + block * 30 + 30):
        run(seed, 60)
