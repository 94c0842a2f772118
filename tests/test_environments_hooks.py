"""What becomes of real processes whose `reset` or `exit` does not return."""

import os
import threading

import pytest

from sdk import Environment, EnvironmentFailed, LocalCluster
from sdk.task import current_task
from tests.support.deployment import HASTY_BROKER, HASTY_HOST, wait_until
from tests.test_environments import PATIENCE_S

pytestmark = [pytest.mark.process, pytest.mark.slow]

HANGS_S = 600.0


def hang():
    threading.Event().wait(HANGS_S)


class HangsInReset(Environment):
    enter_timeout = 0.3

    def reset(self):
        threading.Event().wait(HANGS_S)

    def work(self):
        return os.getpid()

    def waits(self):
        current_task().release_slot()


class BlocksInExit(Environment):
    exit_timeout = 0.1

    async def exit(self):
        hang()

    async def work(self):
        return os.getpid()


class Other(Environment):
    async def work(self):
        return os.getpid()


class TakesItsTime(Environment):
    def exit(self):
        threading.Event().wait(1.0)

    def work(self):
        return os.getpid()


class IsThereAtOnce(Environment):
    enter_timeout = 0.3

    def work(self):
        return os.getpid()


@pytest.fixture
def client():
    with (
        LocalCluster([{"replicas": 1, "arguments": HASTY_HOST}], arguments=HASTY_BROKER) as cluster,
        cluster.client() as client,
    ):
        yield client


def test_a_task_has_its_result_though_the_reset_after_it_hangs(client):
    """It had no end, and the slot and the turn were lost with it."""
    first = client.submit(HangsInReset.work).result(PATIENCE_S)

    second = client.submit(HangsInReset.work).result(PATIENCE_S)

    assert first != second


def test_a_task_that_releases_its_slot_and_hangs_in_reset_is_told_where(client):
    with pytest.raises(
        EnvironmentFailed, match=r"reset within its enter_timeout of 0\.3 s"
    ) as found:
        client.submit(HangsInReset.waits).result(PATIENCE_S)

    assert "threading.Event().wait(HANGS_S)" in str(found.value.__cause__)


def test_an_exit_that_holds_up_the_event_loop_ends_with_its_process(client):
    """Nothing async ever ran in that process again, and nobody was told."""
    pid = client.submit(BlocksInExit.work).result(PATIENCE_S)

    # It needs the place.
    assert client.submit(Other.work).result(PATIENCE_S) != pid
    wait_until(lambda: pid not in {actor["pid"] for actor in client.actors()}, PATIENCE_S)


def test_an_environment_is_not_to_blame_for_the_exit_of_the_one_before_it(client):
    """After three of them it was broken."""
    pid = client.submit(TakesItsTime.work).result(PATIENCE_S)

    assert client.submit(IsThereAtOnce.work).result(PATIENCE_S) == pid
