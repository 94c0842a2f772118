"""A task waits for the actor that its labels prefer, with real processes."""

import pathlib
import threading

import pytest

from sdk import Desired, LocalCluster, current_task
from tests.support.deployment import DEADLINE_S

pytestmark = [pytest.mark.process, pytest.mark.slow]

TIMEOUT_S = DEADLINE_S
ACTORS = [{"slots": 1, "labels": {"model": "v2"}}, {"slots": 1}]
LIKED = {"model": Desired("v2", required=False)}


def where():
    return current_task().actor.labels.get("model")


def stay(path):
    """Run until there is a file at *path*."""
    while not pathlib.Path(path).exists():
        threading.Event().wait(0.01)
    return where()


def test_it_waits_while_another_is_free_and_says_so(tmp_path):
    with LocalCluster(actors=ACTORS) as cluster, cluster.client() as client:
        stays = client.submit(stay, str(tmp_path / "end"), desired_labels={"model": "v2"})
        while client.explain(stays)["state"] != "assigned":
            pass

        waits = client.submit(where, desired_labels=LIKED, affinity_wait=60)
        spills = client.submit(where, desired_labels=LIKED, affinity_wait=0.1)
        passes = client.submit(where)
        others = passes.result(TIMEOUT_S), spills.result(TIMEOUT_S)
        reason = client.explain(waits)["reason"]
        (tmp_path / "end").touch()

        assert others == (None, None)
        assert "for an actor that it likes better" in reason
        assert waits.result(TIMEOUT_S) == stays.result(TIMEOUT_S) == "v2"
