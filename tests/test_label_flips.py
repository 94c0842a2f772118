"""Labels that flip under load: no task starts on an actor whose labels do not satisfy it.

What is promised: the change of a label and the start of a task on the same actor have one order. So
on an actor that runs one task at a time a task that requires `model=X` finds it in the labels with
its first line, whoever changed them since it was assigned.
"""

from random import Random

import pytest

from sdk import LocalCluster, current_task, gather
from sdk.client import Client

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = 200.0
FLIPS = 10_000
ROUND = 200
MODELS = ("a", "b", "c", "d")


def flip(model):
    """Offer another model, and say what is offered then."""
    actor = current_task().actor
    actor.upsert_labels({"model": model})
    return actor.labels["model"] == model


def look(model):
    """Say what is offered at the first line of a task that requires *model*."""
    offered = current_task().actor.labels["model"]
    return offered == model or offered == list(MODELS)


def offer_all():
    current_task().actor.upsert_labels({"model": list(MODELS)})


def submit_rounds(client: Client, rng: Random):
    flips, looks = [], []
    for _ in range(FLIPS // ROUND):
        flips += client.map(flip, rng.choices(MODELS, k=ROUND))
        for model in MODELS:
            count = ROUND // len(MODELS)
            looks += client.map(look, [model] * count, desired_labels={"model": model})
    return flips, looks


def test_no_task_starts_on_a_stale_label_in_ten_thousand_flips():
    with LocalCluster(actors=[{"prefetch": 4}, {"prefetch": 4}]) as cluster:
        client = cluster.client()
        flips, looks = submit_rounds(client, Random(7))

        assert all(gather(flips, timeout=PATIENCE_S))
        for actor in ("local0/0", "local1/0"):
            client.submit(offer_all, desired_labels={"name": actor}).result(PATIENCE_S)
        assert all(gather(looks, timeout=PATIENCE_S))
        assert {future.attempt for future in looks} == {1}, "a hand-back burns no try"
        assert len({future.actor for future in looks}) == 2
