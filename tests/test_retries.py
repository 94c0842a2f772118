"""Retries with real processes: what fails is tried again, whatever is killed meanwhile."""

import os
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from sdk import Backoff, NonRetryable, TaskTimeout, current_task
from tests.support.deployment import DEADLINE_S, Deployment

pytestmark = [pytest.mark.process, pytest.mark.slow]

SHORT = ("--heartbeat", "0.2", "--adopt-window", "0.5")
PATIENCE_S = DEADLINE_S


class Hopeless(NonRetryable, ValueError):
    pass


def note(path, text):
    with Path(path).open("a") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())


def lines(path):
    return Path(path).read_text().split() if Path(path).exists() else []


def flaky(path, good_attempt):
    attempt = current_task().attempt
    note(path, attempt)
    if attempt < good_attempt:
        raise OSError(f"attempt {attempt} found no route")
    return attempt


def hopeless():
    raise Hopeless("never")


def fails_at_length():
    raise ValueError("long " * 2_000)


def until_canceled():
    while not current_task().is_canceled:
        Event().wait(0.01)


@pytest.fixture(scope="module")
def world():
    with Deployment(*SHORT) as one:
        one.start_broker()
        one.start_host("h", "--slots", "2")
        yield one


@pytest.fixture
def client(world):
    return world.client()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "attempts")


def test_what_fails_is_tried_again_until_it_does_not(client, path):
    began = monotonic()

    future = client.submit(flaky, path, 3, retries=5, retry_backoff=Backoff(0.05, jitter=0.0))

    assert future.result(PATIENCE_S) == 3
    assert monotonic() - began >= 0.05 + 0.1
    assert (future.attempt, lines(path)) == (3, ["1", "2", "3"])


def test_the_last_error_says_what_went_wrong_before(client, path):
    future = client.submit(flaky, path, 9, retries=2, retry_backoff=0.01)

    with pytest.raises(OSError, match="attempt 3 found no route") as caught:
        future.result(PATIENCE_S)
    assert lines(path) == ["1", "2", "3"]
    assert [line.partition(": ")[0] for line in future.history] == [
        "attempt 1 on h/0",
        "attempt 2 on h/0",
    ]
    assert "attempt 2 found no route" in caught.value.__notes__[1]


@pytest.mark.parametrize("options", [{}, {"retries": 3, "retry_on": KeyError}])
def test_what_is_not_to_be_tried_again_fails_at_once(client, path, options):
    future = client.submit(flaky, path, 9, **options)

    assert isinstance(future.exception(PATIENCE_S), OSError)
    assert lines(path) == ["1"]


def test_an_error_can_forbid_to_be_tried_again(client):
    future = client.submit(hopeless, retries=3)

    assert type(future.exception(PATIENCE_S)).__name__ == "Hopeless"
    assert future.attempt == 1


def test_an_error_with_a_long_text_comes_back_as_itself(client):
    assert isinstance(client.submit(fails_at_length).exception(PATIENCE_S), ValueError)


def test_a_timeout_is_a_failure_that_can_be_tried_again(client):
    future = client.submit(until_canceled, timeout=0.1, retries=1, retry_backoff=0.01)

    assert isinstance(future.exception(PATIENCE_S), TaskTimeout)
    assert (future.attempt, len(future.history)) == (2, 1)


def test_a_cancel_ends_a_wait_for_the_next_try(client, world, path):
    future = client.submit(flaky, path, 9, retries=9, retry_backoff=60)
    world.until(lambda: future.status() == "delayed")
    assert "waits for its retry in" in client.explain(future)["reason"]

    assert future.cancel()

    world.until(lambda: client.query("status")["delayed"] == 0)
    assert lines(path) == ["1"]


def test_a_wait_for_the_next_try_goes_on_in_a_new_broker(path, tmp_path):
    other = str(tmp_path / "other")
    slow = Backoff(2.0, factor=1.0, jitter=0.0)
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h")
        client = world.client()
        future = client.submit(flaky, path, 3, retries=2, retry_backoff=slow)
        # However long a busy machine takes for a broker, its time does not come.
        long = client.submit(flaky, other, 3, retries=2, retry_backoff=3600)
        world.until(lambda: future.status() == long.status() == "delayed")

        world.restart_broker()

        world.until(lambda: long.status() == "delayed")
        world.until(lambda: len(lines(path)) >= 2)
        world.restart_broker()
        assert future.result(PATIENCE_S) == 3
        assert lines(path) == ["1", "2", "3"]
        assert lines(other) == ["1"]
        assert long.cancel()
