"""Durable named actors with real processes: everything is killed, and nothing is lost."""

import os
import signal

import pytest

from sdk import ActorUnknown, Conflict, NotDurable
from tests.support.deployment import HASTY_HOST, Deployment
from tests.test_durable import SHORT, Journaled
from tests.test_named import TIMEOUT_S, Counter

pytestmark = pytest.mark.process

COUNTED = {"name": "clicks", "durable": True, "get_if_exists": True, "max_task_retries": -1}
CALLS = 40


def kill_all(deployment):
    for name in list(deployment.processes):
        deployment.kill(name)


def test_it_outlives_everything_at_once():
    with Journaled(*SHORT) as deployment:
        deployment.start_broker()
        deployment.start_host("host")
        with deployment.client() as client:
            counter = client.actor(Counter, **COUNTED)
            assert counter.incr.submit(5).result(TIMEOUT_S) == 5

        kill_all(deployment)
        deployment.start_broker()
        deployment.start_host("other")

        client = deployment.client()
        counter = client.get_actor("clicks", timeout=TIMEOUT_S)
        assert counter.incr.submit().result(TIMEOUT_S) == 6
        with pytest.raises(Conflict):
            client.actor(Counter, name="clicks")
        assert client.named()[0]["durable"]
        assert counter.kill()
        deployment.restart_broker()
        with pytest.raises(ActorUnknown):
            client.get_actor("clicks", timeout=TIMEOUT_S)


@pytest.mark.slow
def test_no_increment_is_lost_or_repeated_whoever_is_killed_in_the_middle():
    with Journaled(*SHORT) as deployment:
        deployment.start_broker()
        deployment.start_host("host", "--replicas", "2", *HASTY_HOST)
        client = deployment.client()
        counter = client.actor(Counter, **COUNTED)
        futures = []
        for turn in range(6):
            _, pid = counter.where.submit().result(TIMEOUT_S)
            first = len(futures)
            futures += counter.incr.map([1] * CALLS)
            futures[first + CALLS // 2].result(TIMEOUT_S)
            if turn % 3 == 0:
                deployment.restart_broker()
            elif turn % 3 == 1:
                deployment.kill("broker")
                os.kill(pid, signal.SIGKILL)
                deployment.start_broker()
            else:
                kill_all(deployment)
                deployment.start_broker()
                deployment.start_host("host", "--replicas", "2", *HASTY_HOST)

        seen = [future.result(TIMEOUT_S) for future in futures]

        assert seen == list(range(1, 6 * CALLS + 1))


def test_without_a_journal_it_says_so():
    with Deployment() as deployment:
        deployment.start_broker()

        with pytest.raises(NotDurable, match="keeps no journal"):
            deployment.client().actor(Counter, durable=True)
