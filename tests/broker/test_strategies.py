"""Who is canceled where a limit is full, also for what is had from inside (section 9.5, rule 9)."""

import pytest
from msgspec import structs

from broker.events.defining import define
from tests.broker.test_limits import EPOCH, call, failures, got, limited
from wire.errors import Code
from wire.limits import Definition, Strategy
from wire.messages import Cancel, Credit, Occupied, Occupy, Release, Stop, Vacate
from wire.parts import HeldLimits, Holding

NEWEST = "api=1:strategy=cancel-newest"
IN_PROGRESS = "api=1:strategy=cancel-in-progress"
API = {"api": 1}
# What a run has, and waits for, by its asks.
ASKED = ((5, "db", True), (6, "api", False), (7, "db", False))


class Scene:
    """One client and one actor of nine slots, to which all goes at once."""

    def __init__(self, *definitions):
        self.talk = limited(*definitions)
        self.actor = self.talk.actor(free=9, slots={"slot": 9})
        self.client = self.talk.client()

    def calls(self, *numbers, **limits):
        """Submit calls that take these limits at scheduling."""
        self.client.submits(*numbers, call=call(limits=limits or API), slot=1)
        return self

    def runs(self, *numbers):
        """Let runs of no limit start, whose tokens are as they come."""
        self.client.submits(*numbers)
        return self

    def asks(self, token, number=1, **limits):
        self.actor.says(Occupy(EPOCH, token, number, limits or API))
        return self

    def canceled(self):
        """Return who was canceled since the last look, and was told so."""
        found = failures(self.client)
        assert all(failure.code == Code.CANCELED for failure in found.values())
        return list(found)

    def has(self):
        return [told.number for told in self.actor.takes(Occupied)]


def test_a_call_that_comes_is_canceled_where_a_run_has_it_from_inside():
    scene = Scene(NEWEST).runs(1).asks(1).calls(2)

    assert scene.canceled() == [2]
    scene.actor.says(Vacate(EPOCH, 1, 1))
    assert scene.calls(3).canceled() == []
    assert got(scene.actor) == [1, 3]


def test_a_run_that_asks_where_there_is_no_room_is_canceled():
    scene = Scene(NEWEST).calls(1).runs(2).asks(2)

    assert scene.canceled() == [2]
    assert [(stop.number, "task" in stop.reason) for stop in scene.actor.takes(Stop)] == [(2, True)]
    assert scene.has() == []


def test_what_has_it_from_inside_is_canceled_by_what_comes():
    scene = Scene(IN_PROGRESS).runs(1).asks(1).calls(2)

    assert scene.canceled() == [1]
    assert got(scene.actor) == [1], "the first may still be at work"
    scene.actor.says(Vacate(EPOCH, 1))
    assert got(scene.actor) == [2]


def test_a_run_that_asks_has_the_oldest_canceled_and_waits_until_that_has_returned():
    scene = Scene(IN_PROGRESS).calls(1).runs(2).asks(2)

    assert scene.canceled() == [1]
    assert scene.has() == []
    scene.actor.says(Vacate(EPOCH, 1))
    assert scene.has() == [2]


def test_a_run_that_waits_is_there_as_well():
    scene = Scene(IN_PROGRESS).runs(1, 2).asks(1).asks(2)
    assert scene.canceled() == [1]

    scene.calls(3)

    assert scene.canceled() == [2]


def test_who_came_first_to_the_key_is_the_oldest():
    """Run 1 is older, and asked later."""
    scene = Scene("api=2:strategy=cancel-in-progress").runs(1).calls(2).asks(1)
    assert scene.canceled() == []

    scene.calls(3)

    assert scene.canceled() == [2]


def test_who_has_given_it_back_is_not_there():
    scene = Scene(IN_PROGRESS).runs(1).asks(1)
    scene.actor.says(Vacate(EPOCH, 1, 1))

    assert scene.calls(2).canceled() == []


@pytest.mark.parametrize("definition", [NEWEST, IN_PROGRESS])
def test_what_a_run_has_itself_ends_nobody(definition):
    """Alone it waits for itself, of which it is told as of any circle."""
    scene = Scene(definition).calls(1).asks(1)

    assert scene.canceled() == []
    assert scene.actor.takes(Stop) == []


def test_what_a_run_has_itself_counts_beside_others():
    scene = Scene("api=2:strategy=cancel-newest").calls(1, 2).asks(1)

    assert scene.canceled() == [1]


def test_what_one_task_has_in_two_ways_ends_with_it():
    scene = Scene("api=2:strategy=cancel-in-progress").calls(1).asks(1)

    scene.runs(2).asks(2, api=2)

    assert scene.canceled() == [1]


def test_a_release_of_what_was_taken_at_scheduling_leaves_the_task_there():
    """It may have it again."""
    scene = Scene(NEWEST).calls(1)
    scene.actor.says(Credit(9), Release(EPOCH, 1))

    assert scene.calls(2).canceled() == [2]


def test_nobody_is_canceled_for_a_run_that_another_limit_turns_away():
    scene = Scene("old=1:strategy=cancel-newest", IN_PROGRESS)
    scene.calls(1).calls(2, old=1).runs(3).asks(3, api=1, old=1)

    assert scene.canceled() == [3]


def test_a_run_that_has_its_own_caller_canceled_ends_with_it():
    scene = Scene(IN_PROGRESS).calls(1)
    scene.client.submits(2, parent=(EPOCH, 1))

    scene.asks(2)

    found = failures(scene.client)
    assert {n: f.code for n, f in found.items()} == {1: Code.CANCELED, 2: Code.PARENT_GONE}
    assert scene.has() == []
    scene.actor.says(Vacate(EPOCH, 1))
    assert scene.has() == []


@pytest.mark.parametrize(
    ("strategy", "canceled"), [(Strategy.CANCEL_NEWEST, [3]), (Strategy.CANCEL_IN_PROGRESS, [1, 2])]
)
def test_a_strategy_that_comes_later_counts_runs_that_were_there(strategy, canceled):
    scene = Scene("api=1").runs(1, 2).asks(1).asks(2)

    define(scene.talk.broker, Definition(name="api", maximum=1, strategy=strategy))

    assert scene.calls(3).canceled() == canceled


def test_a_started_broker_counts_what_runs_have_by_their_actors_word():
    scene = Scene(NEWEST)
    scene.client.submits(1, again=True)
    held = Holding(1, 1, (EPOCH - 1, 1), "running", [HeldLimits(1, API, has_it=True)])
    scene.actor.greets(structs.replace(scene.actor.hello, holding=[held]))

    assert scene.calls(2).canceled() == [2]


@pytest.mark.parametrize(("epoch", "canceled"), [(EPOCH - 1, []), (EPOCH, [2])])
def test_an_ask_that_an_earlier_broker_let_wait_is_not_judged_again(epoch, canceled):
    scene = Scene(NEWEST).runs(1, 2).asks(1)
    asked = [HeldLimits(1, API, has_it=False)]
    runs = [
        Holding(1, 1, (EPOCH, 1), "running", [HeldLimits(1, API, has_it=True)]),
        Holding(1, 2, (epoch, 2), "running", asked),
    ]

    scene.actor.greets(structs.replace(scene.actor.hello, holding=runs))

    assert scene.canceled() == canceled
    assert ((epoch, 2) in scene.talk.broker.limits.runs) is (not canceled)


def test_what_a_run_of_an_earlier_broker_asks_for_later_is_judged_as_any():
    """It waited at a key that is full, where each other one would have been canceled."""
    scene = Scene(NEWEST)
    scene.client.submits(1, 2, again=True)
    had = [HeldLimits(1, API, has_it=True)]
    runs = [Holding(1, n, (EPOCH - 1, n), "running", had if n == 1 else []) for n in (1, 2)]
    scene.actor.greets(structs.replace(scene.actor.hello, holding=runs))

    scene.actor.says(Occupy(EPOCH - 1, 2, 5, API))

    assert scene.canceled() == [2]


def test_a_run_that_has_its_own_caller_canceled_by_a_new_session_keeps_nothing_alive():
    """Its OCCUPY was lost with the session before, so it is judged by the inventory."""
    scene = Scene(IN_PROGRESS, "db=1").calls(1)
    scene.client.submits(2, parent=(EPOCH, 1))
    scene.asks(2, number=5, db=1)
    runs = [
        Holding(1, 1, (EPOCH, 1), "running", [HeldLimits(0, API, has_it=True)]),
        Holding(
            1, 2, (EPOCH, 2), "running", [HeldLimits(n, {name: 1}, has) for n, name, has in ASKED]
        ),
    ]

    scene.actor.greets(structs.replace(scene.actor.hello, holding=runs))

    assert sorted(failures(scene.client)) == [1, 2]
    assert scene.talk.broker.limits.runs[EPOCH, 2].is_stopped
    scene.actor.says(Credit(5))
    scene.runs(3).asks(3, db=1)
    assert scene.has() == [], "the second run has it until it returns"
    scene.actor.says(Vacate(EPOCH, 2))
    assert scene.has() == [3]


def test_a_canceled_run_is_not_there_though_it_has_it_until_it_returns():
    scene = Scene(NEWEST).runs(1).asks(1)
    scene.client.says(Cancel([1]))

    assert scene.calls(2).canceled() == []


def test_a_key_of_which_a_run_has_had_some_is_forgotten():
    scene = Scene("api=1:per-key:strategy=cancel-in-progress").runs(1)
    scene.actor.says(Occupy(EPOCH, 1, 1, {"api[a]": 1}), Vacate(EPOCH, 1, 1))

    scene.talk.wait(1.25)

    assert not scene.talk.broker.limits.keys
