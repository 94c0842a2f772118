"""Sets of actors against `wire.labels`, actor by actor; and who hears of which change."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from broker.facts import offers
from broker.facts.offers import Offers
from broker.waiting.shapes import Shape
from tests.broker.conversation import CODE, Conversation
from wire.labels import (
    Comparator,
    Desire,
    affinity,
    differing,
    is_unchanged,
    satisfies,
    satisfies_all,
)
from wire.messages import Assign, LabelsChanged
from wire.parts import Call

VALUES = st.sampled_from(["v1", "v2", "1", 1, 1.0, 2, 2.5, -1, True, False, 2**53 + 1, 2.0**53])
OFFERED = st.one_of(VALUES, st.lists(VALUES, max_size=3))
LABELS = st.dictionaries(st.sampled_from("abc"), OFFERED, max_size=3)
ONE = st.sampled_from([Comparator.EQUAL, Comparator.NOT_EQUAL])
ORDER = st.sampled_from([c for c in Comparator if c.value in ("gt", "ge", "lt", "le")])
SEVERAL = st.sampled_from([Comparator.IN, Comparator.NOT_IN])
PRESENCE = st.sampled_from([Comparator.EXISTS, Comparator.NOT_EXISTS])
KEY, REQUIRED = st.sampled_from("abcd"), st.booleans()
WEIGHT = st.sampled_from([100, 1, 0.1, 0.2, 0.3, -1, 0])
DESIRE = st.one_of(
    st.builds(Desire, KEY, ONE, VALUES, REQUIRED, WEIGHT),
    st.builds(Desire, KEY, ORDER, st.sampled_from([1, 2.5, 2**53]), REQUIRED, WEIGHT),
    st.builds(Desire, KEY, SEVERAL, st.lists(VALUES, min_size=1, max_size=3), REQUIRED, WEIGHT),
    st.builds(Desire, KEY, PRESENCE, st.none(), REQUIRED, WEIGHT),
)
SLOTS = st.fixed_dictionaries({"slot": st.integers(1, 3)}, optional={"gpu": st.integers(0, 2)})
COST = st.dictionaries(st.sampled_from(["slot", "gpu"]), st.integers(0, 3), max_size=2)


class Offering:
    """What of an actor is looked at."""

    def __init__(self, labels, slots):
        self.labels = labels
        self.slots = slots
        self.number = 0
        self.takes_work = True
        self.run_s = 0.0
        self.pace = None


def members(offers, mask):
    return {a for n, a in enumerate(offers.actors) if mask >> n & 1}


@given(
    st.lists(st.tuples(LABELS, LABELS, SLOTS, st.booleans()), max_size=6),
    st.lists(DESIRE, max_size=3),
    COST,
)
def test_a_set_holds_whoever_satisfies(actors, desires, cost):
    offers, there = Offers(), []
    shape = Shape(Call("work", CODE, desires=desires, slots=cost))
    for before, after, slots, leaves in actors:
        actor = Offering(before, slots)
        offers.put(actor)
        actor.labels = after
        offers.put(actor)
        if leaves:
            offers.drop(actor)
        else:
            there.append(actor)

    found = offers.satisfying(shape)

    able = [a for a in there if shape.cost.fits(a) and satisfies_all(a.labels, desires)]
    assert members(offers, found) == set(able)
    for desire in desires:
        met = {actor for actor in there if satisfies(actor.labels, desire)}
        assert members(offers, offers.meeting(desire)) == met
    tiers = offers.tiers(shape, found)
    assert [weight for weight, _ in tiers] == sorted({w for w, _ in tiers}, reverse=True)
    weights = {actor: weight for weight, mask in tiers for actor in members(offers, mask)}
    assert weights == {actor: affinity(actor.labels, desires) for actor in able}


@given(LABELS, LABELS, st.lists(DESIRE, min_size=1, max_size=3))
def test_whoever_may_differ_hears_of_a_change(before, after, desires):
    offers = Offers()
    actor = Offering(before, {"slot": 1})
    offers.put(actor)
    shape = Shape(Call("work", CODE, desires=desires))
    offers.watch(shape)
    former = (offers.satisfying(shape), [offers.meeting(d) for d in desires if not d.required])

    actor.labels = after
    heard = offers.put(actor)

    now = (offers.satisfying(shape), [offers.meeting(d) for d in desires if not d.required])
    assert former == now or shape in heard


@given(LABELS, LABELS)
def test_what_is_offered_otherwise_is_named_once(before, after):
    keys = before.keys() | after.keys()

    changed = differing(before, after)

    assert sorted(changed) == sorted(
        key for key in keys if not is_unchanged(before.get(key), after.get(key))
    )


def test_a_kind_without_tasks_is_let_go_by_a_change_and_found_with_its_next_task():
    talk = Conversation()
    actor = talk.actor(free=1, labels={"model": "a"})
    wanted = Call("work", CODE, desires=[Desire("model", Comparator.EQUAL, "a")])
    client = talk.client().submits(1, call=wanted)
    [assign] = actor.takes(Assign)
    shape = talk.task(client, 1).template.shape
    actor.ends((actor.epoch, assign.number), free=1)
    assert shape.queue is not None

    actor.says(LabelsChanged(2, {"model": "b"}))
    assert shape.queue is None
    client.submits(2, call=wanted)
    assert not actor.takes(Assign)
    actor.says(LabelsChanged(3, {"model": "a"}))

    assert [command.task for command in actor.takes(Assign)] == [2]


def test_what_nobody_watches_any_more_does_not_stay():
    offers = Offers()
    for number in range(100):
        desires = [Desire("a", Comparator.EQUAL, number), Desire("b", Comparator.EXISTS, None)]
        shape = Shape(Call("work", CODE, desires=desires))
        offers.watch(shape)
        offers.unwatch(shape)

    assert (offers._unbound, offers._equal, offers._key) == ({}, {}, {})


def test_a_label_that_looks_elsewhere_touches_nobody():
    offers = Offers()
    actor = Offering({"zone": "eu", "model": "v1"}, {"slot": 1})
    offers.put(actor)
    for number in range(100):
        desire = Desire("customer", Comparator.EQUAL, number)
        offers.watch(Shape(Call("work", CODE, desires=[desire])))

    actor.labels = {"zone": "us", "model": "v1"}

    assert offers.put(actor) == {}


def test_a_label_that_turns_from_true_to_1_is_seen():
    talk = Conversation()
    actor = talk.actor(free=1, labels={"fast": True})
    wants = Desire("fast", Comparator.EQUAL, 1)
    talk.client().submits(1, call=Call("work", CODE, desires=[wants]))
    assert actor.takes(Assign) == []

    actor.says(LabelsChanged(2, {"fast": 1}))

    assert len(actor.takes(Assign)) == 1


def test_who_runs_long_is_not_expected_soon_to_a_power_of_two_in_its_favour():
    offers = Offers()
    brief, long, unknown = (Offering({}, {"slot": 1}) for _ in range(3))
    for actor in (brief, long, unknown):
        offers.put(actor)
    offers.note_run(brief, 1.9)
    offers.note_run(long, 2.1)

    assert members(offers, offers.soon(offers.all, 1.0)) == {brief, unknown}
    assert members(offers, offers.soon(offers.all, 0.9)) == {unknown}
    assert members(offers, offers.soon(offers.all, 2.0)) == {brief, long, unknown}


def test_places_are_those_of_the_scarcest_slots():
    offers = Offers()
    for gpus in (1, 2, 5):
        offers.put(Offering({}, {"slot": 4, "gpu": gpus}))

    assert offers.places({"slot": 1}, offers.all) == 12
    assert offers.places({"slot": 1, "gpu": 2}, offers.all) == 3
    assert offers.places({"slot": 1}, 0b101) == 8


def test_who_takes_no_work_is_known_once():
    offers = Offers()
    actor = Offering({}, {"slot": 1})
    offers.put(actor)
    actor.takes_work = False

    assert offers.note_working(actor)
    assert not offers.note_working(actor)
    assert not offers.working


def lines_of(work):
    """Return how many lines of offers.py *work* goes through, not those of what is collected."""
    seen, before = [], sys.gettrace()

    def trace(frame, event, _):
        is_ours = frame.f_code.co_filename == offers.__file__
        seen.extend([event] if is_ours and event == "line" else [])
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return len(seen)


def test_a_set_of_one_costs_the_same_among_any_number_of_actors():
    offers = Offers()
    for _ in range(500):
        offers.put(Offering({}, {"slot": 1}))

    first, last = lines_of(lambda: offers.members(1)), lines_of(lambda: offers.members(1 << 499))

    assert first == last
    assert list(offers.members(1 << 499 | 1)) == [offers.actors[0], offers.actors[499]]
