"""Which actor gets a task: against a slow and simple choice, and rule by rule."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.waiting.shapes import Shape
from tests.broker.conversation import CODE, Conversation
from wire.labels import Comparator, Desire, affinity, satisfies_all
from wire.messages import (
    Assign,
    Credit,
    Function,
    LabelsChanged,
    Reject,
    Submit,
    Template,
)
from wire.parts import Call, Environment

LARGE = Desire("memory", Comparator.GREATER_THAN, 256)


def liked(key, value, weight):
    return Desire(key, Comparator.EQUAL, value, False, weight)


def got(actor):
    return [assign.task for assign in actor.takes(Assign)]


MEMORY = st.sampled_from([None, 64, 512, "512"])
ACTORS = st.lists(st.tuples(MEMORY, st.sampled_from(["eu", "us"]), st.integers(0, 2)), max_size=4)
DESIRES = st.lists(
    st.sampled_from(
        [LARGE, liked("zone", "eu", 5.0), liked("zone", "us", 3.0), liked("memory", 64, 1.0)]
    ),
    max_size=3,
)


@given(ACTORS, DESIRES)
def test_the_choice_is_the_best_of_those_that_satisfy_and_have_credit(offers, desires):
    talk = Conversation()
    actors = []
    for number, (memory, zone, free) in enumerate(offers):
        labels = {"zone": zone} | ({} if memory is None else {"memory": memory})
        actor = talk.actor(20 + number, name=f"host/{number}", labels=labels, free=free)
        actors.append((actor, labels, free))

    talk.client().submits(1, call=Call("work", CODE, desires=desires))

    able = [entry for entry in actors if entry[2] and satisfies_all(entry[1], desires)]
    chosen = [entry for entry in actors if got(entry[0])]
    assert len(chosen) == bool(able)
    if able:
        best = max((affinity(labels, desires), free) for _, labels, free in able)
        assert (affinity(chosen[0][1], desires), chosen[0][2]) == best


def test_kinds_of_tasks_that_nobody_has_credit_for_are_not_compared_with_one_another(monkeypatch):
    looks = []
    peek = Shape.peek
    monkeypatch.setattr(Shape, "peek", lambda shape: looks.append(shape) or peek(shape))
    talk = Conversation()
    actor = talk.actor(20, free=0, labels={"memory": 512})
    client = talk.client()
    for kind in range(100):
        desire = Desire("memory", Comparator.GREATER_THAN, kind)
        client.submits(kind + 1, call=Call("work", CODE, desires=[desire]), slot=kind)
    looks.clear()

    actor.says(Credit(1))

    assert got(actor) == [1]
    assert len(looks) < 300
    talk.broker.check()


def test_a_required_label_waits_for_its_actor():
    talk = Conversation()
    small = talk.actor(11, labels={"memory": 64}, free=1)
    talk.client().submits(1, call=Call("work", CODE, desires=[LARGE]))
    assert got(small) == []

    large = talk.actor(12, name="host/1", labels={"memory": 512}, free=1)

    assert got(large) == [1]


def test_what_nobody_can_take_lets_others_pass():
    talk = Conversation()
    small = talk.actor(11, labels={"memory": 64}, free=1)
    client = talk.client().submits(1, call=Call("large", CODE, desires=[LARGE]))

    client.submits(2, call=Call("plain", CODE), slot=1)

    assert got(small) == [2]


def test_tasks_spread_over_actors():
    talk = Conversation()
    actors = [talk.actor(11 + n, name=f"host/{n}", free=2) for n in range(2)]

    talk.client().submits(1, 2)

    assert [len(got(actor)) for actor in actors] == [1, 1]


@pytest.mark.parametrize("environment", [None, Environment("env", "Env", CODE)])
def test_what_may_wait_ahead_draws_no_task_from_an_actor_with_more_free_slots(environment):
    talk = Conversation()
    turns = {} if environment is None else {"env": 9}
    quick = talk.actor(11, name="host/0", slots={"slot": 2})
    quick.says(Credit(1, 64, 0, turns))
    freer = talk.actor(12, name="host/1", slots={"slot": 2})
    freer.says(Credit(2, 0, 0, turns))
    call = Call("work", b"" if environment else CODE, "m" if environment else "", environment)

    client = talk.client()
    client.says(Function(0, CODE, b"code"), Template(0, call))
    client.says(*(Submit(number, 0, b"") for number in (1, 2, 3)))

    assert sorted([*got(quick), *got(freer)]) == [1, 2, 3]
    assert talk.task(client, 1).actor.name == "host/1"
    assert [one.actor.name for one in map(partial(talk.task, client), (2, 3))].count("host/0") == 1


def test_nobody_gets_more_than_it_granted():
    talk = Conversation()
    actor = talk.actor(free=2)

    talk.client().submits(*range(1, 6))

    assert got(actor) == [1, 2]


def test_code_travels_once_for_each_session():
    talk = Conversation()
    actor = talk.actor(free=2)
    client = talk.client().submits(1, 2)
    assert len(actor.takes(Function)) == len(actor.takes(Template)) == 1

    actor.greets()
    actor.says(Credit(1))
    client.submits(3)

    assert len(actor.takes(Function)) == 1


def test_a_warm_actor_goes_before_one_with_more_credit():
    talk = Conversation()
    cold = talk.actor(11, free=0)
    cold.says(Credit(2, 0, 1))
    warm = talk.actor(12, name="host/1")
    warm.says(Credit(1, 0, 0, {"env": 1}))
    call = Call("m", b"", "m", Environment("env", "Env", CODE))

    client = talk.client()
    client.says(Function(0, CODE, b"code"), Template(0, call), Submit(1, 0, b""))

    assert got(warm) == [1]
    assert got(cold) == []


def test_the_least_recently_used_of_equals_is_chosen():
    talk = Conversation()
    actors = [talk.actor(11 + n, name=f"host/{n}", free=1) for n in range(3)]
    client = talk.client()
    order = []
    for number in range(1, 7):
        client.submits(number)
        for at, actor in enumerate(actors):
            for assign in actor.takes(Assign):
                order.append(at)
                actor.ends((actor.epoch, assign.number), free=1)

    assert order == [0, 1, 2, 0, 1, 2]


def test_labels_said_anew_lift_what_a_reject_barred_though_they_are_as_before():
    talk = Conversation()
    actor = talk.actor(11, free=1)
    talk.client().submits(1)
    (assign,) = actor.takes(Assign)
    # It offered something else when the task left its mailbox, and offers the former again.
    actor.says(Reject(actor.epoch, assign.number, "other labels", True), Credit(1))
    assert got(actor) == []

    actor.says(LabelsChanged(2, actor.hello.labels))

    assert got(actor) == [1]


def test_what_took_the_last_slot_is_sent_before_the_next_is_looked_for():
    talk = Conversation()
    for number in (1, 2):
        talk.actor(10 + number, name=f"host/{number}", free=1)
    lacking = Desire("model", Comparator.NOT_EXISTS, None)
    commands = [
        Function(0, CODE, b"code"),
        Template(0, Call("work", CODE)),
        Template(1, Call("work", CODE, desires=[lacking])),
        *(Submit(n, n % 2, b"") for n in (1, 2, 3)),
    ]
    talk.client().says(*commands, silently=True)

    first = talk.broker.flush(talk.now, may_pause=True)
    ready = len(talk.broker.ready)
    rest = talk.broker.flush(talk.now)

    assert [assigned(frames) for frames in (first, rest)] == [[1], [2]]
    assert ready
    assert not talk.broker.ready
    talk.broker.check()


def assigned(sent):
    return [c.task for _, frame, _ in sent for c in frame.commands if isinstance(c, Assign)]


def test_a_kind_without_tasks_that_its_actor_left_is_forgotten_later_or_with_its_next_task():
    talk = Conversation()
    wanting = Call("work", CODE, desires=[Desire("model", Comparator.EQUAL, "a", True, 1.0)])
    actor = talk.actor(labels={"model": "a"}, free=2)
    client = talk.client().submits(1, call=wanting)
    assert got(actor) == [1]

    actor.says(LabelsChanged(2, {"model": "b"}), silently=True)
    assert talk.broker.leftovers
    talk.broker.check()
    # It comes again before there was time.
    client.submits(2, call=wanting)
    assert not talk.broker.leftovers
    assert got(actor) == []
    actor.says(LabelsChanged(3, {"model": "a"}))
    assert got(actor) == [2]

    actor.says(LabelsChanged(4, {"model": "b"}))
    talk.broker.tidy()
    assert not talk.broker.leftovers
    client.submits(3, call=wanting)
    assert got(actor) == []
