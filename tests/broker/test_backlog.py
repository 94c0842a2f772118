"""The backlog against a model: a plain list from which the lowest rank comes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.facts.peers import Client
from broker.facts.task import PRIORITY_STEP, Event, State, Task, Template
from broker.waiting.backlog import FLOWS_MIN, Backlog
from wire.parts import Call

CALLS = [
    Call("plain", b"f"),
    Call("urgent", b"f", priority=3),
    Call("once", b"f", at_most_once=True),
    Call("shared", b"f", fairness_key="team"),
]


class Queue:
    """A backlog and everything that is in it."""

    def __init__(self):
        self.backlog = Backlog()
        self.clients = [Client(n, 0.0) for n in range(3)]
        self.templates = [
            Template(call, self.backlog.shape_of(call), function=None, blob=None) for call in CALLS
        ]
        self.queued = []
        self.number = 0

    def push(self, client, template):
        self.number += 1
        task = Task(self.clients[client], self.number, State.QUEUED, 0.0)
        task.template = self.templates[template]
        self.backlog.push(task)
        self.queued.append(task)
        return task

    def take(self):
        """Take the next task as placement does, or None."""
        found = self.backlog.next_ready()
        if found is None:
            return None
        shape, task = found
        self.backlog.take(shape, task)
        task.move(Event.ASSIGN)
        self.queued.remove(task)
        return task

    def may_come(self):
        return [task for task in self.queued if not task.client.is_paused]

    def take_all(self):
        taken = []
        while (task := self.take()) is not None:
            taken.append(task)
        return taken


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "take", "forget", "remove", "back", "pause"]),
        st.integers(0, 2),
        st.integers(0, len(CALLS) - 1),
        st.integers(0, 1_000),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_lowest_rank_of_those_that_may_come_is_next(steps):
    queue = Queue()
    taken = []
    for what, client, template, at in steps:
        match what:
            case "push":
                queue.push(client, template)
            case "take":
                expected = min(queue.may_come(), key=lambda task: task.rank, default=None)
                task = queue.take()
                assert (task is None) == (expected is None)
                if task is not None:
                    assert task.rank == expected.rank
                    taken.append(task)
            case "forget" if queue.queued:
                task = queue.queued.pop(at % len(queue.queued))
                queue.backlog.forget(task)
                task.move(Event.FORGET)
            case "remove" if queue.queued:
                task = queue.queued.pop(at % len(queue.queued))
                queue.backlog.remove(task)
                task.move(Event.ADOPT)
            case "back" if taken:
                task = taken.pop(at % len(taken))
                task.move(Event.REQUEUE)
                queue.backlog.push(task, is_back=True)
                queue.queued.append(task)
            case "pause":
                owner = queue.clients[client]
                owner.is_paused = not owner.is_paused
                if not owner.is_paused:
                    queue.backlog.unpark(owner)
        queue.backlog.check()
        assert queue.backlog.count == len(queue.queued)
    for owner in queue.clients:
        owner.is_paused = False
        queue.backlog.unpark(owner)
    queue.backlog.wake()
    left = set(queue.queued)

    assert set(queue.take_all()) == left


def test_two_clients_alternate_however_many_tasks_one_has():
    queue = Queue()
    many = [queue.push(0, 0) for _ in range(10)]
    few = [queue.push(1, 0) for _ in range(2)]

    order = queue.take_all()

    assert [order.index(task) for task in few] == [1, 3]
    assert [task for task in order if task in many] == many


def test_one_flow_is_first_in_first_out():
    queue = Queue()
    tasks = [queue.push(0, 0) for _ in range(5)]

    assert queue.take_all() == tasks


def test_a_higher_priority_goes_first():
    queue = Queue()
    plain = queue.push(0, 0)
    urgent = queue.push(0, 1)

    assert queue.take_all() == [urgent, plain]


def test_a_higher_priority_starves_nobody():
    queue = Queue()
    plain = queue.push(0, 0)
    taken = []
    for _ in range(int(4 * PRIORITY_STEP)):
        queue.push(1, 1)
        taken.append(queue.take())
        if taken[-1] is plain:
            break

    assert plain in taken


def test_clients_with_one_fairness_key_share_one_turn():
    queue = Queue()
    shared = [queue.push(client, 3) for client in (0, 1, 0, 1)]
    alone = [queue.push(2, 0) for _ in range(2)]

    order = queue.take_all()

    assert [order.index(task) for task in alone] == [1, 3]
    assert len(order) == len(shared) + len(alone)


def test_what_comes_back_goes_ahead_of_its_equals():
    queue = Queue()
    first, second = queue.push(0, 0), queue.push(0, 0)
    assert queue.take() is first
    first.move(Event.REQUEUE)
    queue.backlog.push(first, is_back=True)
    queue.queued.append(first)

    assert queue.take_all() == [first, second]


def test_what_is_set_aside_does_not_block_and_comes_back():
    queue = Queue()
    first, second = queue.push(0, 0), queue.push(0, 0)
    shape, task = queue.backlog.next_ready()
    queue.backlog.set_aside(shape, task)
    queue.backlog.check()

    assert queue.take() is second
    assert queue.backlog.next_ready() is None
    queue.backlog.check()
    queue.backlog.wake()
    assert queue.take() is first


@pytest.mark.parametrize("template", range(len(CALLS)))
def test_equal_calls_wait_under_one_shape(template):
    backlog = Backlog()
    call = CALLS[template]

    assert backlog.shape_of(call) is backlog.shape_of(Call(*[getattr(call, f) for f in FIELDS]))


FIELDS = Call.__struct_fields__


def test_what_was_queued_and_forgotten_does_not_stay():
    queue = Queue()
    head = queue.push(0, 0)
    shape = head.template.shape
    for number in range(1_000):
        task = queue.push(number % 2, 0)
        queue.backlog.next_ready()
        queue.backlog.forget(task)
        task.move(Event.FORGET)
        queue.backlog.check()
    assert list(shape.lanes) == [queue.clients[0]]
    assert sum(len(lane.tasks) for lane in shape.lanes.values()) < 100
    assert len(shape._lanes.heap) < 100
    assert queue.take() is head


def test_looking_again_at_what_was_set_aside_costs_no_memory():
    queue = Queue()
    rejected, blocked = queue.push(0, 0), queue.push(0, 0)
    shape = rejected.template.shape
    for _ in range(1_000):
        assert queue.backlog.next_ready() == (shape, rejected)
        queue.backlog.set_aside(shape, rejected)
        assert queue.backlog.next_ready() == (shape, blocked)
        queue.backlog.block(shape.queue)
        queue.backlog.wake()
        queue.backlog.check()
    assert len(shape._lanes.heap) < 100
    assert queue.take_all() == [rejected, blocked]


def test_a_client_does_not_wait_for_one_that_stood_at_its_address():
    queue = Queue()
    for _ in range(100):
        queue.backlog.forget(queue.push(0, 0))
    # As when the first one is gone and its memory is used again.
    queue.clients[0].incarnation = 77
    assert queue.push(0, 0).rank == queue.push(1, 0).rank


def test_many_fairness_keys_are_not_looked_through_for_each_new_one():
    backlog, client = Backlog(), Client(1, 0.0)
    looked = 0
    for number in range(3 * FLOWS_MIN):
        task = Task(client, number, State.QUEUED, 0.0)
        call = Call("keyed", b"f", fairness_key=str(number))
        task.template = Template(call, backlog.shape_of(call), function=None, blob=None)
        flows = backlog._flows
        backlog.rank(task)
        looked += backlog._flows is not flows
    assert looked == 2
