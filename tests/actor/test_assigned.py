"""What was assigned to an actor: what is refused, what waits, what starts, and gives back."""

import pytest

from tests.actor.broker_end import CODE, BrokerEnd, connected, make_core, said
from wire.labels import Comparator, Desire
from wire.messages import (
    Credit,
    Function,
    LabelsChanged,
    Outcome,
    Release,
    Template,
)
from wire.parts import Call

BIG = b"x" * 5000


def test_an_unknown_template_is_rejected():
    end = connected(make_core())

    token = end.assign(template=9)
    end.carry()

    assert end.rejected[token] == "template 9 did not come"
    assert end.available == 1


def test_a_template_whose_code_did_not_come_is_rejected():
    end = connected(make_core())
    end.say(Template(0, Call("f", b"other hash 16 by")))

    token = end.assign(template=0)
    end.carry()

    assert "did not come" in end.rejected[token]


def test_a_template_that_names_nothing_is_rejected():
    end = connected(make_core())
    end.say(Template(0, Call("f")))

    token = end.assign(template=0)
    end.carry()

    assert "names nothing" in end.rejected[token]


def test_what_can_never_fit_is_rejected():
    end = connected(make_core(slots=2))

    token = end.assign(end.template(slots={"gpu": 1}))
    end.carry()

    assert "gpu" in end.rejected[token]


def test_a_function_that_was_overwritten_lives_on_in_its_tasks():
    end = connected(make_core(prefetch=1))
    end.assign()
    waiting = end.assign()
    end.say(Function(0, b"z" * 16, b"new code"))
    end.carry()
    first = next(iter(end.started))

    end.finish(first)
    end.turn()

    assert end.started[waiting].recipe.code == CODE


def test_code_can_come_as_a_payload_frame():
    end = connected(make_core())
    end.say(Function(0, b"q" * 16, b"", 1), payloads=[BIG])
    end.say(Template(0, Call("f", b"q" * 16)))

    token = end.assign(template=0)
    end.carry()

    assert end.started[token].recipe.code == BIG


def test_more_than_was_granted_waits():
    end = connected(make_core())

    tokens = [end.assign() for _ in range(3)]
    end.carry()

    assert list(end.started) == tokens[:1]
    assert end.available == 0


def test_the_mailbox_is_first_in_first_out():
    end = connected(make_core(prefetch=3))
    tokens = [end.assign() for _ in range(4)]
    end.carry()
    order = []
    while end.started:
        (token,) = end.started
        order.append(token)
        end.finish(token)
        end.carry()

    assert order == tokens


def test_labels_are_checked_again_when_a_task_leaves_the_mailbox():
    end = connected(make_core(prefetch=1, labels={"model": "v1"}))
    template = end.template(desires=[Desire("model", Comparator.EQUAL, "v1")])
    first, second = end.assign(template), end.assign(template)
    end.carry()
    end.core.change_labels({"model": "v2"}, end.now)
    end.finish(first)

    end.carry()

    assert "labels" in end.rejected[second]
    assert end.available == 2


def test_labels_are_said_before_the_credit_that_holds_after_them():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.core.change_labels({"model": "v2"}, end.now)
    end.finish(token)
    end.turn()

    ((frame, _),) = end.to_broker

    assert [type(command) for command in frame.commands] == [LabelsChanged, Credit, Outcome]
    assert frame.commands[0] == LabelsChanged(2, {"model": "v2"})


def test_labels_that_change_while_a_session_opens_are_said_after_it():
    core = make_core()
    end = BrokerEnd(core)
    end.turn()
    core.change_labels({"a": 1}, 0.0)

    end.carry()

    assert end.labels == {"a": 1}
    assert end.labels_version == 2


def test_deleting_an_upserted_label_brings_back_what_it_covered():
    end = connected(make_core(labels={"a": 1}))
    end.core.change_labels({"a": 2, "b": 3}, end.now)
    end.carry()
    assert end.labels == {"a": 2, "b": 3}

    end.core.change_labels({}, end.now, deleted=["a", "b", "nothing"])
    end.carry()

    assert end.labels == {"a": 1}


def test_no_labels_are_said_when_nothing_changed():
    end = connected(make_core(labels={"a": 1}))

    end.core.change_labels({"a": 1}, end.now)
    end.carry()

    assert said(end, LabelsChanged) == []


@pytest.mark.parametrize(("was", "now"), [(1, True), (False, 0), ([1, 2], [True, 2])])
def test_a_bool_in_the_place_of_the_number_that_it_equals_is_a_change(was, now):
    end = connected(make_core(labels={"a": was}))

    end.core.change_labels({"a": now}, end.now)
    end.carry()

    assert repr(end.labels) == repr({"a": now})


# --- release


def test_release_gives_the_slot_back_in_the_same_frame():
    end = connected(make_core())
    token = end.assign()
    end.carry()

    assert end.core.release(token, None, end.now)
    end.turn()

    ((frame, _),) = end.to_broker
    assert frame.commands == [Credit(1, 0, 1), Release(*token)]


def test_a_second_release_changes_nothing():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.core.release(token, None, end.now)

    assert not end.core.release(token, None, end.now)
    end.carry()

    assert len(said(end, Release)) == 1
    assert end.credit.free == 1


def test_release_after_the_end_changes_nothing():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token)

    assert not end.core.release(token, None, end.now)


def test_a_released_task_lets_the_next_one_start():
    end = connected(make_core(prefetch=1))
    first, second = end.assign(), end.assign()
    end.carry()
    assert list(end.started) == [first]

    end.core.release(first, None, end.now)
    end.carry()

    assert list(end.started) == [first, second]
    end.finish(first)
    end.carry()
    assert end.available == 1


def test_a_part_of_the_slots_can_be_given_back():
    end = connected(make_core(slots={"slot": 2, "gpu": 1}))
    token = end.assign(end.template(slots={"slot": 2, "gpu": 1}))
    end.carry()
    assert end.credit == Credit(0, 0, 1, {}, {"gpu": 0})

    assert end.core.release(token, {"gpu": 1}, end.now)
    end.carry()

    assert end.credit == Credit(0, 0, 1, {}, {"gpu": 1})
    assert said(end, Release)[0].typed == {"gpu": 1}
    assert not end.core.release(token, {"gpu": 1}, end.now)


@pytest.mark.parametrize(
    "options",
    [
        {"slots": {"slot": 2}},
        {"slots": {"slot": 1}},
        {"at_most_once": True},
        {"limits": {"db": 1}},
    ],
    ids=str,
)
def test_what_must_not_wait_ahead_is_handed_back_when_somebody_was_faster(options):
    end = connected(make_core(slots=2, prefetch=3))
    small = end.template()
    fixed = end.template(**options)
    first, second, third = end.assign(small), end.assign(small), end.assign(small)
    late = end.assign(fixed)

    end.carry()

    assert list(end.started) == [first, second]
    assert [one.token for one in end.core.mailbox.waiting] == [third]
    assert list(end.rejected) == [late]
