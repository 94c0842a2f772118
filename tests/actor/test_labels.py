from types import SimpleNamespace

import pytest

from actor.granting.labels import environment_key, merge_labels
from actor.machine import platform
from actor.machine.builtin import builtin_labels
from actor.running.context import Identity
from actor.settings import Launch, Settings
from wire.labels import validate_key, validate_value

MERGED = [
    ({"a": 1}, {}, [], {"a": 1}),
    ({"a": 1}, {"a": 2}, [], {"a": 2}),
    ({"a": 1}, {}, [("E", {"b": 2})], {"a": 1, "b": 2, "environment.E": "warm"}),
    ({"a": 1}, {}, [("E", {"a": 2})], {"a": [1, 2], "environment.E": "warm"}),
    ({}, {}, [("E", {"a": [1, 2]}), ("E", {"a": 2})], {"a": [1, 2], "environment.E": "warm"}),
    ({"a": True}, {}, [("E", {"a": 1})], {"a": [True, 1], "environment.E": "warm"}),
]


@pytest.mark.parametrize(("base", "upserted", "environments", "offered"), MERGED)
def test_labels_of_all_sources_are_merged(base, upserted, environments, offered):
    assert merge_labels(base, upserted, environments) == offered


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Vision", "environment.Vision"),
        ("Outer.Vision.using(name='v2')", "environment.Outer.Vision"),
        ("x" * 300, "environment." + "x" * 116),
        ("", "environment.unnamed"),
    ],
)
def test_an_environment_has_a_label_that_is_valid(name, key):
    assert environment_key(name) == key
    validate_key(key)


@pytest.mark.parametrize(
    ("gpus", "offered"),
    [
        ([], {}),
        (["A100"], {"gpu_count": 1, "gpu_name": "A100"}),
        (["T4", "A100", "T4"], {"gpu_count": 3, "gpu_name": ["A100", "T4"]}),
    ],
)
def test_gpus_are_offered_where_there_are_some(gpus, offered, monkeypatch):
    monkeypatch.setattr(platform, "list_gpus", lambda: gpus)

    labels = builtin_labels("gpu1")

    assert {key: value for key, value in labels.items() if key.startswith("gpu_")} == offered


def test_built_in_labels_are_valid():
    labels = builtin_labels("gpu1")

    assert labels["host"] == "gpu1"
    assert {"os", "python", "cpus"} <= labels.keys()
    assert "gpu_count" not in labels or labels["gpu_count"] > 0
    for key, value in labels.items():
        validate_key(key)
        for one in value if isinstance(value, list) else [value]:
            validate_value(key, one)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"python": "2.7"}, "label 'python' is built in"),
        ({"name": "x/0"}, "label 'name' is built in"),
        ({"gpu_count": 8}, "label 'gpu_count' is built in"),
        ({"k": "\udcff"}, "no valid text"),
        ({f"k{n}": "x" * 1000 for n in range(200)}, "300 labels take 3.* octets, over"),
    ],
)
def test_a_task_upserts_no_label_that_would_keep_its_actor_from_work(labels, said):
    earlier = {f"earlier{n}": "x" * 1000 for n in range(100)}
    loop = SimpleNamespace(core=SimpleNamespace(upserted=earlier))
    launch = Launch(core=Settings(name="h/0"), broker="", incarnation=1, host_name="h")

    with pytest.raises(ValueError, match=said):
        Identity(launch, loop).upsert_labels(labels)
