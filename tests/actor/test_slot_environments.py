"""Environments in slots: entered once, reset after each task, left when they must."""

import asyncio
import threading

from sdk.errors import SlotReleased
from sdk.task import current_task
from wire.errors import Code

# --- environments


class Model:
    def enter(self, name="v1"):
        self.name = name
        self.calls = 0

    def reset(self):
        self.calls += 1

    def exit(self):
        log.append(f"exit {self.name}")

    def count(self):
        return self.name, self.calls

    def fail(self):
        raise ValueError("inside")


class AsyncModel:
    async def enter(self, name="v1"):
        await asyncio.sleep(0)
        self.name = name

    async def exit(self):
        log.append(f"exit {self.name}")

    async def ask(self):
        await asyncio.sleep(0)
        return self.name, threading.current_thread().name


class Broken:
    def enter(self):
        raise OSError("no such weights")

    def exit(self):
        log.append("exit broken")


log = []
MODEL = ("m", Model, {"name": "v2"})


def test_an_environment_is_entered_once_and_reset_after_each_task(shell):
    first = shell.begin(None, environment=MODEL, method="count", loads=True)
    assert shell.value(first) == ("v2", 0)

    second = shell.begin(None, environment=MODEL, method="count")

    assert shell.value(second) == ("v2", 1)
    assert shell.environments == [("m", "warm")]


def test_a_run_that_does_not_even_come_to_enter_is_handed_back(shell):
    # Nothing can be left that is none: as where memory is out before anything is done.
    run = shell.begin(None, environment=MODEL, method="count", loads=True, evicts=None)

    what, failure, _ = shell.end(run)

    assert what == "not entered"
    assert failure.code == Code.ENVIRONMENT_FAILED
    assert "TypeError" in failure.message


def test_what_was_only_entered_is_not_reset(shell):
    entry = shell.begin(None, environment=MODEL, loads=True)
    assert shell.value(entry) is None

    assert shell.value(shell.begin(None, environment=MODEL, method="count")) == ("v2", 0)


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


clock = Clock()


class Ticking:
    """Takes 5 s to enter and 2 s to run, by a clock of its own."""

    def enter(self):
        clock.now += 5.0

    def run(self):
        clock.now += 2.0


def test_to_enter_an_environment_is_no_part_of_how_long_the_task_runs(shell, monkeypatch):
    monkeypatch.setattr("actor.running.slot.time", clock)
    for loads in (True, False):
        shell.value(shell.begin(None, environment=("t", Ticking, {}), method="run", loads=loads))

    assert shell.runs_s == [2.0, 2.0]


def test_a_function_finds_the_environment_in_its_task(shell):
    def count():
        return current_task().environment.count()

    run = shell.begin(count, environment=MODEL, loads=True)

    assert shell.value(run) == ("v2", 0)


def test_without_an_environment_there_is_none(shell):
    assert shell.value(shell.begin(lambda: current_task().environment)) is None


def test_an_async_environment_is_entered_on_the_event_loop(shell):
    environment = ("a", AsyncModel, {})
    run = shell.begin(None, environment=environment, method="ask", loads=True)
    assert shell.value(run) == ("v1", "slot-async")
    log.clear()

    shell.slots.close()

    assert log == ["exit v1"]


def test_what_is_evicted_is_left_before_the_next_one_enters(shell):
    shell.value(shell.begin(None, environment=MODEL, method="count", loads=True))
    log.clear()

    run = shell.begin(log_copy, environment=("n", Model, {}), loads=True, evicts=("m",))

    assert shell.value(run) == ["exit v2"]


def log_copy():
    from tests.actor import test_slot_environments

    return list(test_slot_environments.log)


def test_a_failed_enter_is_told_with_its_traceback(shell):
    log.clear()
    run = shell.begin(lambda: 1, environment=("b", Broken, {}), loads=True)

    status, failure, _ = shell.end(run)

    assert status == "not entered"
    assert failure.code == Code.ENVIRONMENT_FAILED
    assert "no such weights" in failure.message
    assert "in enter" in failure.traceback
    # That it is cold goes without saying: told apart, a broker would have it entered elsewhere.
    assert shell.environments == []
    assert log == ["exit broken"]


def test_an_exception_in_a_method_leaves_the_environment_warm(shell):
    run = shell.begin(None, environment=MODEL, method="fail", loads=True)

    assert shell.failure(run).type == "ValueError"
    assert shell.value(shell.begin(None, environment=MODEL, method="count")) == ("v2", 1)


def test_after_release_the_environment_is_gone(shell):
    def ask():
        task = current_task()
        task.environment.count()
        task.release_slot()
        try:
            return task.environment
        except SlotReleased as error:
            return str(error)

    run = shell.begin(ask, environment=MODEL, loads=True)

    assert "release_slot" in shell.value(run)
    assert shell.value(shell.begin(None, environment=MODEL, method="count")) == ("v2", 1)


def test_a_coroutine_resets_the_environment_before_its_turn_is_free(shell):
    async def ask():
        task = current_task()
        task.release_slot()
        return "done"

    run = shell.begin(ask, environment=MODEL, loads=True)

    assert shell.value(run) == "done"
    assert shell.released == [run.token]
    assert shell.value(shell.begin(None, environment=MODEL, method="count")) == ("v2", 1)


def test_a_coroutine_whose_reset_finds_no_thread_has_its_outcome(shell, refuse_threads):
    # It was heard of no more: neither its outcome nor its slot came back.
    refused = refuse_threads("asyncio", times=2)

    async def ask():
        return "done"

    run = shell.begin(ask, environment=MODEL, loads=True)

    assert shell.value(run) == "done"
    assert len(refused) == 2
    assert shell.value(shell.begin(None, environment=MODEL, method="count")) == ("v2", 1)


class Forgetful(Model):
    def reset(self):
        raise RuntimeError("cannot")


def test_an_environment_that_cannot_be_reset_is_given_up(shell):
    log.clear()
    run = shell.begin(None, environment=("f", Forgetful, {}), method="count", loads=True)

    assert shell.value(run) == ("v1", 0)
    assert shell.environments == [("f", "warm"), ("f", "cold")]
    # Others may be inside: the core says when it is left.
    assert not log
