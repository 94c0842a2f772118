"""The life of a task as a table: what is not in it cannot happen."""

from itertools import product

import pytest
from msgspec.msgpack import decode, encode

from broker.facts.peers import Client
from broker.facts.task import TRANSITIONS, Event, FunctionBlob, State, Task, Template, share
from broker.waiting.backlog import KINDS_MAX, Backlog
from wire.labels import Comparator, Desire
from wire.parts import Call, Sticky

CODE = b"c" * 16
ALL = list(product(State, Event))


@pytest.mark.parametrize(("state", "event"), ALL, ids=str)
def test_a_task_moves_as_the_table_says_and_never_else(state, event):
    task = Task(Client(1, 0.0), 1, state, 0.0)
    if (state, event) in TRANSITIONS:
        task.move(event)

        assert task.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(KeyError):
            task.move(event)


def test_nothing_leads_out_of_forgotten_and_everything_leads_into_it():
    assert not any(state is State.FORGOTTEN for state, _ in TRANSITIONS)
    # What is being written is durable: it ends, and is not forgotten before.
    kept = {State.FORGOTTEN, State.WRITING}
    assert {s for (s, e) in TRANSITIONS if e is Event.FORGET} == set(State) - kept


def test_an_outcome_is_never_taken_back():
    after = {to for (state, _), to in TRANSITIONS.items() if state is State.ENDED}

    assert after == {State.FORGOTTEN}


def test_every_state_can_be_reached():
    begins = {State.QUEUED, State.HELD, State.UNCLAIMED_RUN, State.ATTACHED}

    assert begins | set(TRANSITIONS.values()) == set(State)


def test_a_name_tells_client_and_number():
    assert Task(Client(255, 0.0), 7, State.QUEUED, 0.0).name == "00000000000000ff-7"


def test_what_calls_say_alike_is_there_once_and_says_the_same():
    def told(number):
        desires = [Desire("customer-" + "x" * 3, Comparator.EQUAL, number)]
        return decode(encode(Call("work " + "x" * 3, b"f" * 16, desires=desires)), type=Call)

    function = FunctionBlob(b"f" * 16, b"code", ())
    first, second, as_it_came = told(1), told(2), told(1)

    share(first, function)
    share(second, function)

    assert first == as_it_came
    for name in ("name", "function", "slots", "limits", "metadata", "retry_on"):
        assert getattr(first, name) is getattr(second, name)
    for name in ("key", "weight"):
        assert getattr(first.desires[0], name) is getattr(second.desires[0], name)


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"desires": [Desire("model", Comparator.EQUAL, "m1")]},
        {"sticky": Sticky("session-1", hard=True, inherit=False)},
        {"desires": [Desire("a", Comparator.EXISTS, None, False, 7.0)], "sticky": Sticky("s")},
    ],
)
def test_calls_that_desire_something_else_share_what_else_they_say(own):
    backlog = Backlog()
    calls = [
        Call("f", CODE, priority=3, **own),
        Call("f", CODE, priority=3, desires=[Desire("model", Comparator.EQUAL, "m2")]),
    ]
    shapes = [backlog.shape_of(call) for call in calls]
    templates = [
        Template(
            call,
            shape,
            function=None,
            blob=None,
            kind=backlog.kind_of(call, shape, None, None),
        )
        for call, shape in zip(calls, shapes, strict=True)
    ]

    assert [template.call for template in templates] == calls
    assert (templates[0].head is templates[1].head) == ("sticky" not in own)
    assert templates[0].head.priority == 3


def test_of_kinds_only_those_of_late_are_known():
    backlog = Backlog()
    for number in range(KINDS_MAX + 1):
        call = Call(f"f{number}", CODE)
        backlog.kind_of(call, backlog.shape_of(call), None, None)

    assert len(backlog._kinds) == 1
