"""Options are checked where they are written, and every error names the value."""

import pickle
import warnings

import pytest

from sdk import Environment, task
from sdk.describing.options import (
    NAMES,
    NOT_YET,
    Backoff,
    Desired,
    Options,
    Sticky,
    read_desires,
    read_slots,
    split_key,
)
from sdk.errors import NonRetryable, TaskCanceled
from sdk.reading.deadlines import read_wait
from wire.labels import Comparator, Desire


@pytest.mark.parametrize(
    ("given", "desire"),
    [
        ("eu", Desire("k", Comparator.EQUAL, "eu")),
        (True, Desire("k", Comparator.EQUAL, True)),
        (Desired(5), Desire("k", Comparator.EQUAL, 5)),
        (Desired(256, Comparator.GREATER_THAN), Desire("k", Comparator.GREATER_THAN, 256)),
        (
            Desired("v2", required=False, weight=10),
            Desire("k", Comparator.EQUAL, "v2", required=False, weight=10),
        ),
        (Desired("v2", required=False), Desire("k", Comparator.EQUAL, "v2", required=False)),
        (Desired(comparator=Comparator.EXISTS), Desire("k", Comparator.EXISTS, None)),
        (Desired(("a", "b"), Comparator.IN), Desire("k", Comparator.IN, ["a", "b"])),
        (
            {"value": "v2", "comparator": Comparator.NOT_EQUAL, "required": False, "weight": 3},
            Desire("k", Comparator.NOT_EQUAL, "v2", required=False, weight=3),
        ),
        ({"value": 1}, Desire("k", Comparator.EQUAL, 1)),
        ({"comparator": "exists"}, Desire("k", Comparator.EXISTS, None)),
        (Desire("k", Comparator.LESS_THAN, 4), Desire("k", Comparator.LESS_THAN, 4)),
    ],
    ids=repr,
)
def test_each_form_of_a_desire_is_read(given, desire):
    assert read_desires({"k": given}) == {"k": desire}


@pytest.mark.parametrize(
    ("labels", "error", "text"),
    [
        ({"k": Desired("x", Comparator.GREATER_THAN)}, ValueError, "numbers only.*'x'"),
        ({"k": Desired()}, ValueError, "takes one value, got None"),
        ({"k": Desired(1, Comparator.EXISTS)}, ValueError, "takes no value, got 1"),
        ({"k": Desired(1, Comparator.IN)}, ValueError, "takes a list"),
        ({"k": Desired(float("nan"))}, ValueError, "NaN"),
        ({"k=": 1}, ValueError, "'k='"),
        ({"": 1}, ValueError, "''"),
        ({"k": {"value": 1, "wheight": 2}}, ValueError, "wheight"),
        ({"k": {"comparator": "eq"}}, ValueError, "has no value"),
        ({"k": {"value": 1, "comparator": "near"}}, ValueError, "'k'.*'near'.*eq, ne, gt"),
        ({"k": Desired(1, ">")}, ValueError, "'k'.*'>'.*eq, ne, gt"),
        ({"k": Desired(1, required="no")}, TypeError, "'k'.*True or False, got 'no'"),
        ({"k": Desired(1, required=False, weight="9")}, TypeError, "'k'.*number, got '9'"),
        ({"k": Desired(1, required=False, weight=True)}, TypeError, "'k'.*number, got True"),
        ({"k": Desired(1, required=False, weight=10**400)}, ValueError, "'k'.*weight"),
        ({"k": Desired("\udcff")}, ValueError, "'k'.*no valid text"),
        ({"k": object()}, ValueError, "object"),
        ({1: 1}, TypeError, "label 1"),
        ("gpu", TypeError, "'gpu'"),
        ({"k": Desired(1, required=False, weight=float("inf"))}, ValueError, "inf"),
    ],
)
def test_a_desire_that_makes_no_sense_is_refused(labels, error, text):
    with pytest.raises(error, match=text):
        read_desires(labels)


def test_the_weight_of_a_required_desire_warns_unless_required_is_said():
    with pytest.warns(UserWarning, match="weight 5 of a required label"):
        read_desires({"k": Desired(1, weight=5)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_desires({"k": Desired(1, required=True, weight=5)})


def class_with(**attributes):
    """Let a class be made as the statement `class` does."""

    class Picky(Environment):
        desired_labels = attributes["desired_labels"]


@pytest.mark.parametrize("give", [task, lambda **options: Options.of(options), class_with])
def test_a_weight_that_is_ignored_is_warned_of_at_the_line_of_the_user(give):
    with pytest.warns(UserWarning, match="weight 5") as seen:
        give(desired_labels={"k": Desired(1, weight=5)})

    assert {warning.filename for warning in seen} == {__file__}


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"wibble": 1}, TypeError, "'wibble' is no option; options are affinity_wait"),
        ({"retrys": 3}, TypeError, "'retrys' is no option; did you mean 'retries'?"),
        ({"priority": 11}, ValueError, "11"),
        ({"priority": True}, ValueError, "True"),
        ({"priority": "high"}, ValueError, "'high'"),
        ({"timeout": 0}, ValueError, "0"),
        ({"timeout": float("nan")}, ValueError, "nan"),
        ({"schedule_timeout": 0}, ValueError, "0"),
        ({"schedule_timeout": -1.5}, ValueError, r"-1\.5"),
        ({"schedule_timeout": float("inf")}, ValueError, "inf"),
        ({"schedule_timeout": True}, ValueError, "True"),
        ({"slots": 0}, ValueError, "0"),
        ({"slots": {"gpu": 1.5}}, ValueError, r"1\.5"),
        ({"slots": {}}, TypeError, "slots"),
        ({"slots": "two"}, TypeError, "'two'"),
        ({"name": 5}, ValueError, "5"),
        ({"name": "x" * 257}, ValueError, "256"),
        ({"metadata": {"k": []}}, ValueError, r"\[\]"),
        ({"metadata": 3}, TypeError, "3"),
        ({"metadata": {"k": "\udcff"}}, ValueError, "metadata.*no valid text"),
        ({"metadata": {"\udcff": 1}}, ValueError, "metadata.*no valid text"),
        ({"sticky": "\udcff"}, ValueError, "sticky key.*no valid text"),
        ({"name": "\udcff"}, ValueError, "name.*no valid text"),
        ({"fairness_key": "\udcff"}, ValueError, "fairness_key.*no valid text"),
        ({"at_most_once": 1}, TypeError, "1"),
        ({"environment": 7}, TypeError, "subclass of Environment"),
        ({"durable": 1}, TypeError, "1"),
        ({"retries": -1}, ValueError, "-1"),
        ({"retries": True}, ValueError, "True"),
        ({"retries": 10**7}, ValueError, "10000000"),
        ({"retry_backoff": "1s"}, TypeError, "'1s'"),
        ({"retry_backoff": True}, TypeError, "True"),
        ({"retry_backoff": -1}, ValueError, "at least 0"),
        ({"retry_backoff": float("inf")}, ValueError, "at least 0"),
        ({"retry_on": "OSError"}, TypeError, "'OSError'"),
        ({"retry_on": [OSError, int]}, TypeError, "int"),
        ({"retry_on": [OSError, TaskCanceled]}, TypeError, "TaskCanceled is never tried again"),
        ({"retry_on": NonRetryable}, TypeError, "NonRetryable is never tried again"),
        ({"affinity_wait": -1}, ValueError, "seconds from 0"),
        ({"affinity_wait": True}, ValueError, "seconds from 0"),
        ({"affinity_wait": "long"}, ValueError, "'long'"),
        ({"sticky": ""}, ValueError, "a sticky key has 1 to 256"),
        (
            {"sticky": Sticky("k" * 257)},
            ValueError,
            "a sticky key has 1 to 256 characters, not 257",
        ),
        ({"sticky": Sticky("k", hard=1)}, TypeError, "must be True or False"),
        ({"sticky": 7}, TypeError, "must be a Sticky or its key"),
        ({"limits": {"db": 0}}, ValueError, "not an amount"),
        ({"limits": {"d b": 1}}, ValueError, "not the name of a limit"),
        ({"limits": {"db[]": 1}}, ValueError, "a key has 1 to"),
        ({"limits": {"host:gpu[a]": 1}}, ValueError, "has no keys"),
        ({"limits": {1: 1}}, TypeError, "mapping from name"),
        ({"limits": "db"}, TypeError, "mapping from name"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        Options.of(options)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"initial_s": 9.0, "max_s": 5.0}, ValueError, "above max_s"),
        ({"factor": 0.5}, ValueError, "factor"),
        ({"jitter": 2.0}, ValueError, "jitter"),
        ({"initial_s": "1s"}, TypeError, "initial_s='1s' is not a number"),
        ({"jitter": True}, TypeError, "jitter=True is not a number"),
    ],
)
def test_a_back_off_that_makes_no_sense_is_refused_where_it_is_written(fields, error, text):
    with pytest.raises(error, match=text):
        Backoff(**fields)


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_what_is_not_supported_yet_may_be_left_as_it_is(name):
    assert Options.of({name: NOT_YET[name][0]}).chosen == {}
    with pytest.raises(ValueError, match="not supported yet"):
        Options.of({name: object()})


def test_every_option_of_the_surface_is_known():
    assert {"desired_labels", "slots", "limits", "sticky", "reuse", "after", "metadata"} <= NAMES


@pytest.mark.parametrize(
    ("slots", "read"), [(1, {}), (2, {"slot": 2}), ({"gpu": 1}, {"gpu": 1}), ({"slot": 1}, {})]
)
def test_slots_are_read(slots, read):
    assert Options.of({"slots": slots}).chosen["slots"] == read


def test_later_options_lie_over_earlier_ones_key_by_key():
    base = Options.of({"priority": 1, "name": "base", "desired_labels": {"a": 1, "b": 1}})
    over = Options.of({"priority": 2, "desired_labels": {"b": 2}})

    merged = over.over(base).chosen

    assert (merged["priority"], merged["name"]) == (2, "base")
    assert {k: d.value for k, d in merged["desired_labels"].items()} == {"a": 1, "b": 2}


def test_options_travel_without_their_plans():
    options = Options.of({"priority": 3})
    options.plans[1] = "something of this process"

    back = pickle.loads(pickle.dumps(options))

    assert back == options
    assert back.plans == {}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", 3),
        ("fairness_key", 3),
        ("timeout", -1),
        ("schedule_timeout", "soon"),
        ("durable", 1),
        ("at_most_once", "yes"),
        ("fail_infeasible", 0),
        ("reuse", 2),
    ],
)
def test_a_bad_value_is_complained_about_by_the_name_of_its_option_alone(option, value):
    with pytest.raises((TypeError, ValueError), match=rf"^{option} .*{value!r}$"):
        Options.of({option: value})


def test_a_key_that_is_far_too_long_is_not_said_again_whole():
    with pytest.raises(ValueError, match=r"256 characters, not 10,000$"):
        split_key({"idempotency_key": "k" * 10_000})


@pytest.mark.parametrize(
    ("given", "backoff"),
    [
        (2, Backoff(2.0)),
        (0.5, Backoff(0.5)),
        (0, Backoff(0.0)),
        (120, Backoff(120.0, max_s=120.0)),
        (Backoff(1.0, 3.0, 9.0, 0.0), Backoff(1.0, 3.0, 9.0, 0.0)),
    ],
)
def test_a_back_off_is_a_number_of_seconds_or_all_of_it(given, backoff):
    assert Options.of({"retry_backoff": given}).chosen["retry_backoff"] == backoff


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (OSError, ["builtins.OSError"]),
        ((OSError, KeyError), ["builtins.KeyError", "builtins.OSError"]),
        ((), []),
    ],
)
def test_types_to_retry_on_are_named(given, names):
    assert Options.of({"retry_on": given}).chosen["retry_on"] == names


@pytest.mark.parametrize(
    ("slots", "text"),
    [
        ({"": 1}, "'' is not the name of a slot type"),
        ({1: 1}, "1 is not the name of a slot type"),
        ({"g u": 1}, "'g u' is not the name of a slot type"),
        ({"a=b": 1}, "'a=b' is not the name of a slot type"),
        ({"gpu": 0}, "'gpu': 0 is not an amount"),
        (2**31, "2147483648 is not an amount: 1 to 2147483647"),
        (True, "True is not an amount"),
    ],
)
def test_slots_that_nobody_can_have_are_refused_where_they_are_written(slots, text):
    with pytest.raises(ValueError, match=text):
        read_slots(slots)


@pytest.mark.parametrize("timeout", ["1", True, float("nan"), object()])
def test_a_wait_is_of_seconds_or_for_ever(timeout):
    for right in (None, 0, 1.5, -1, float("inf")):
        _ = read_wait(right)
    with pytest.raises(TypeError, match="seconds, or None"):
        _ = read_wait(timeout)
