"""Placement against the rule taken literally: every task, every actor, at each step anew.

Nothing here knows of crews, queues or rankings. What the broker assigned is followed in its order,
and each assignment must be the one that the rule names; at the end of a turn nothing is left that
the rule would assign.
"""

from math import inf, log2
from random import Random

import pytest

from tests.broker.conversation import CODE, Conversation
from wire.labels import Comparator, Desire, satisfies
from wire.messages import (
    ActorBeat,
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
from wire.parts import Call, Environment, Reuse, Status

ZONES = ("eu", "us", "ap")
MODELS = ("a", "b", "c", 1, 1.0, True)
MEMORIES = (0, 64, 256.0, 512, "512", False)
# Copies of which some may be given up; how long that takes is of no matter here.
ELASTIC = Reuse(scaledown_ttl_s=1e6)
RUNS_S = (0.02, 0.05, 0.05, 0.1, 0.1, 0.3, 1.7, 6.0)


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
        name = random.choice("efg")
        environment = Environment(name, "Env", CODE, reuse=ELASTIC if name == "f" else Reuse())
    return Call(
        "work",
        CODE if environment is None else b"",
        "" if environment is None else "m",
        environment,
        desires,
        {"gpu": 1} if kind > 0.85 else {},
        random.choice((-1, 0, 0, 2)),
        at_most_once=random.random() < 0.2,
        affinity_wait_s=random.choice((None, 0.0, 0.5, 2.0, 2.0)) if environment is None else 0.0,
    )


def a_fond_call(random):
    """Return a call that would wait for an actor that it likes better."""
    liked = [a_desire(random) for _ in range(random.choice((1, 1, 2)))]
    desires = [Desire(d.key, d.comparator, d.value, False, d.weight) for d in liked]
    if random.random() < 0.3:
        desires.append(a_desire(random))
    slots = {"gpu": 1} if random.random() < 0.2 else {}
    priority, once = random.choice((-1, 0, 0)), random.random() < 0.3
    wait_s = random.choice((0.5, 2.0, 2.0, 5.0))
    return Call(
        "fond", CODE, "", None, desires, slots, priority, at_most_once=once, affinity_wait_s=wait_s
    )


def averaged(former, run_s):
    return run_s if former == 0.0 else former + (run_s - former) / 8


def is_patient(call):
    liked = [desire for desire in call.desires if not desire.required]
    return bool(liked) and call.environment is None and bool(call.affinity_wait_s)


def kind(call):
    """Return what is equal for calls that wait for the same."""
    return (call.desires, call.slots, call.at_most_once, call.affinity_wait_s, call.environment)


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
        # The numbers of the copies that it has, by environment.
        self.copies = {}
        self.is_closed = False
        self.run_s = 0.0

    def state(self, credit):
        """Begin anew from what is stated; all that was assigned has arrived."""
        self.credit = credit
        self.given = []

    @property
    def free(self):
        return max(0, self.credit.free - sum(call.slots == {} for call in self.given))

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
        places = {one.environment.id for one in self.given if one.environment is not None}
        turns = self.credit.turns
        # Where all turns are stated, one each here, nobody was inside.
        filled = sum(turns.get(place, 1) >= 1 for place in places)
        is_resident = name in turns or self.entered(name)
        return not is_resident and self.credit.room > filled

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
        is_warm = call.environment is not None and self.is_warm(call)
        tie = -self.used_at
        if is_warm and self.starts(call) and call.environment.reuse.is_elastic:
            # Of copies of which some may be given up the lowest, so that the others become idle.
            tie = -self.copies[call.environment.id]
        is_empty = call.environment is not None and not is_warm and self.is_empty()
        weight = self.weight(call)
        left = self.free if self.starts(call) else self.available
        return (self.starts(call), is_warm, weight, is_empty, left, tie)

    def is_empty(self):
        """Tell whether nothing has to give way for an environment that is entered here."""
        cold = sum(
            one.environment is not None and one.environment.id not in self.credit.turns
            for one in self.given
        )
        turns = self.credit.turns
        idle = sum(free >= 1 for name, free in turns.items() if name in self.copies)
        return self.credit.room - cold > idle

    def weight(self, call):
        liked = [d.weight for d in call.desires if not d.required and satisfies(self.labels, d)]
        return sum(liked)

    def places(self, call):
        """Return how many tasks of a call it could run at once."""
        if not all(satisfies(self.labels, d) for d in call.desires if d.required):
            return 0
        needed = call.slots or {"slot": 1}
        return min(self.slots.get(kind, 0) // amount for kind, amount in needed.items())

    def is_soon(self, within_s):
        """Tell whether it is expected to end a run in time: to the power of two below."""
        return self.run_s == 0.0 or 2.0 ** (log2(self.run_s) // 1) <= within_s


class Literal:
    """A broker, and beside it the tasks and actors from which the rule is worked out."""

    def __init__(self, seed):
        self.random = Random(seed)
        self.talk = Conversation()
        self.calls = [a_call(self.random) for _ in range(self.random.randint(1, 8))]
        self.is_fond = bool(seed % 2)
        if self.is_fond:
            self.calls[1:] = [a_fond_call(self.random) for _ in range(self.random.randint(1, 4))]
        self.clients = [self.talk.client(n) for n in (1, 2)]
        for client in self.clients:
            templates = (Template(n, call) for n, call in enumerate(self.calls))
            client.says(Function(0, CODE, b"code"), *templates)
        self.offers = []
        self.queued = {}
        self.barred = {}
        # How long tasks of a kind run, once somebody wants to wait for a better actor.
        self.runs_s = {}
        self.learns = False
        self.serial = 20
        self.number = 0

    def step(self):
        """Let a few things happen, then compare what the broker assigns."""
        for _ in range(self.random.choice((1, 1, 1, 3))):
            steps = (self.submit, self.submit, self.state, self.state, self.end, self.flip)
            rare = (self.join, self.leave, self.reject, self.cancel, self.close, self.wait)
            often = (*steps, self.wait) if self.is_fond else steps
            self.random.choice(often if self.random.random() < 0.8 else rare)()
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
            self.learns |= is_patient(task.call)

    def state(self, *commands, offer=None):
        if not self.offers:
            return
        offer = offer or self.random.choice(self.offers)
        pick = self.random.choice
        turns = {name: pick((0, 1, 2)) for name in "efg" if self.random.random() < 0.4}
        typed = {"gpu": pick((0, 1, 2))} if "gpu" in offer.slots else {}
        credit = Credit(pick((0, 1, 1, 2)), pick((0, 0, 1, 3)), pick((0, 1, 2)), turns, typed)
        self.states(offer, credit)
        self.says(offer.talker, *commands, credit)

    def states(self, offer, credit):
        """Let the rule know what an actor states."""
        offer.state(credit)
        offer.copies = {name: n for name, n in offer.copies.items() if name in credit.turns}
        known = {call.environment.id for call in self.calls if call.environment is not None}
        for name in credit.turns:
            if name in known:
                self.count_copy(offer, name)

    def count_copy(self, offer, name):
        """Give a copy that is new the lowest number that no other one has."""
        taken = {one.copies.get(name) for one in self.offers}
        offer.copies.setdefault(name, min(set(range(len(taken) + 1)) - taken))

    def end(self):
        for offer in self.offers:
            if offer.holds:
                number = self.random.choice(list(offer.holds))
                call = offer.holds.pop(number).call
                run_s = self.random.choice(RUNS_S)
                if self.learns:
                    offer.run_s = averaged(offer.run_s, run_s)
                    one = repr(kind(call))
                    self.runs_s[one] = averaged(self.runs_s.get(one, 0.0), run_s)
                self.says(offer.talker, Outcome(1000, number, Status.RESULT, b"", 0, run_s))
                self.state(offer=offer)
                return

    def wait(self):
        self.talk.now += self.random.choice((0.1, 0.3, 1.0))

    def close(self):
        """Let an actor take no work, or some again."""
        if self.offers:
            offer = self.random.choice(self.offers)
            offer.is_closed = not offer.is_closed
            self.states(offer, Credit(0))
            holding = [(1000, number) for number in offer.holds]
            closed = "paused" if offer.is_closed else ""
            beat = ActorBeat(offer.credit, offer.version, offer.labels, holding, {}, closed)
            self.says(offer.talker, beat)

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

    def best(self, task, *, is_given=False):
        """Return how good the best actor for a task is, None where there is none or it waits.

        Of several that are the first of their kind any may be; the one that *is_given* was.
        """
        key = self.best_now(task)
        if key is None or not is_patient(task.call):
            return key
        alike = [one for one in self.queued.values() if kind(one.call) == kind(task.call)]
        able = [one for one in alike if self.best_now(one) is not None]
        rank = min(one.rank for one in able)
        firsts = [one for one in able if one.rank == rank]
        if is_given and task in firsts:
            firsts = [task]
        if any(self.preferred(one, len(alike)) is None for one in firsts):
            return None
        return self.preferred(task, len(alike))

    def preferred(self, task, count):
        """Return the best while a lesser actor is passed for one that is worth waiting for."""
        key = self.best_now(task)
        while key is not None and self.waits(task, key[2], count):
            key = self.best_now(task, above=key[2])
        return key

    def best_now(self, task, *, above=-inf):
        keys = [key for offer in self.offers if (key := self.key(task, offer)) is not None]
        return max((key for key in keys if key[2] > above), default=None)

    def waits(self, task, weight, count):
        """Tell whether a task waits for an actor of more weight, as *count* of its kind do."""
        call, within_s = task.call, task.call.affinity_wait_s
        if any(number == task.number for number, _ in self.barred):
            return False
        if self.talk.now >= task.queued_at + within_s:
            return False
        places = {
            one: one.places(call)
            for one in self.offers
            if not one.is_closed and one.places(call) and one.weight(call) > weight
        }
        if not any(one.is_soon(within_s) for one in places):
            return False
        run_s = self.runs_s.get(repr(kind(call)), 0.0)
        return count * run_s <= sum(places.values()) * within_s

    def compare(self):
        given = [(a.number, offer, a) for offer in self.offers for a in offer.talker.takes(Assign)]
        for number, offer, assign in sorted(given, key=lambda one: one[0]):
            task = self.queued.pop(assign.task)
            # What it is to be compared with stands still until it is with its actor.
            better = [one for one in self.queued.values() if one.rank < task.rank]
            self.queued[task.number] = task
            assert all(self.best(one) is None for one in better), "a later task goes first"
            best = self.best(task, is_given=True)
            assert self.key(task, offer) == best, "another actor is better"
            del self.queued[task.number]
            offer.given.append(task.call)
            if task.call.environment is not None:
                self.count_copy(offer, task.call.environment.id)
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
