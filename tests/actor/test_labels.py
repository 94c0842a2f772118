import pytest

from actor.granting.labels import environment_key, merge_labels
from actor.machine import platform
from actor.machine.builtin import builtin_labels
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
