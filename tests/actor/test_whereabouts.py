"""Where code of a user is that takes too long: what a person finds in the failure."""

import asyncio
import threading

import pytest

from actor.running.threads import EventLoopThread
from actor.running.whereabouts import FRAMES_MAX, of_coroutine, of_thread
from tests.support.deployment import DEADLINE_S


class Place:
    """Code that stays where it is until the test has looked."""

    def __init__(self):
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def stays(self):
        self.begun.set()
        self.goes_on.wait(DEADLINE_S)

    def deep(self, levels):
        return self.deep(levels - 1) + self.deep(0) if levels else self.stays() or 0

    def enter(self):
        self.stays()

    async def blocks(self):
        self.stays()

    async def waits(self):
        await self.waits_inside()

    async def waits_inside(self):
        self.begun.set()
        await asyncio.to_thread(self.goes_on.wait, DEADLINE_S)


@pytest.fixture
def place():
    place = Place()
    yield place
    place.goes_on.set()


@pytest.fixture
def events():
    return EventLoopThread("looked at")


def in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def test_a_thread_is_where_it_stays(place):
    thread = in_thread(place.enter)
    assert place.begun.wait(DEADLINE_S)

    found = of_thread(thread.ident, (Place.enter.__code__,))

    assert found.startswith("Traceback (most recent call last):\n")
    assert "in stays" in found
    assert "self.goes_on.wait(DEADLINE_S)" in found
    assert "in enter" not in found
    assert "in enter" in of_thread(thread.ident, ())


def test_of_a_deep_stack_the_last_are_told(place):
    thread = in_thread(place.deep, 10 * FRAMES_MAX)
    assert place.begun.wait(DEADLINE_S)

    found = of_thread(thread.ident, ())

    assert "in stays" in found
    assert found.count("in deep") < FRAMES_MAX


def test_a_thread_that_is_none_is_nowhere():
    assert not of_thread(0, ())


def test_a_coroutine_is_where_it_waits(place, events):
    coroutine = place.waits()
    events.submit(coroutine)
    assert place.begun.wait(DEADLINE_S)

    found = of_coroutine(coroutine)

    assert "in waits\n" in found
    assert "in waits_inside" in found


def test_a_coroutine_that_holds_up_the_event_loop_is_where_it_does(place, events):
    coroutine = place.blocks()
    events.submit(coroutine)
    assert place.begun.wait(DEADLINE_S)

    assert "in stays" in of_coroutine(coroutine)
    assert "in stays" in events.where()


def test_what_is_no_coroutine_is_nowhere(place, events):
    async def ends():
        """Return at once."""

    coroutine = ends()
    events.wait(coroutine)

    assert not of_coroutine(coroutine)
    assert not of_coroutine(object())
    assert not EventLoopThread("unused").where()
