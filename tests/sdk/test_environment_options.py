"""What is refused where an environment is written, and what its policy says to the broker."""

import functools
from datetime import timedelta
from types import SimpleNamespace

import pytest

from sdk.describing.batching import batch
from sdk.describing.options import Options
from sdk.environment import Environment, ReusePolicy, specification_of
from sdk.plan import could_be_parameter, plan_for, split_keywords
from sdk.task import task
from tests.sdk.test_environment import Policied, Vision, call_of, plain
from wire.parts import Reuse

# --- where the class is written


def test_concurrency_needs_an_async_method():
    with pytest.raises(ValueError, match="concurrency=2 needs an async"):

        class Sync(Environment):
            reuse = ReusePolicy(concurrency=2)

            def work(self):
                return 1

    class Async(Environment):
        reuse = ReusePolicy(concurrency=2)

        async def work(self):
            return 1

    assert call_of(Async.work).environment.concurrency == 2


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ({"replicas": 0}, "replicas=0"),
        ({"replicas": (3, 2)}, r"\(3, 2\)"),
        ({"replicas": (1, 2, 3)}, r"\(1, 2, 3\)"),
        ({"replicas": "2"}, "'2'"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"idle_ttl": 0}, "idle_ttl=0"),
        ({"idle_ttl": timedelta(seconds=-1)}, "idle_ttl"),
        ({"scaledown_ttl": float("nan")}, "scaledown_ttl"),
        ({"scaledown_ttl": "1m"}, "'1m'"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy, text):
    with pytest.raises(ValueError, match=text):
        ReusePolicy(**policy)


def test_a_policy_is_read():
    policy = ReusePolicy(replicas=(2, 5), idle_ttl=timedelta(minutes=5), scaledown_ttl=0.5)

    assert (policy.replicas_range, policy.idle_ttl_s, policy.scaledown_ttl_s) == ((2, 5), 300, 0.5)
    assert ReusePolicy(replicas=3).replicas_range == (3, 3)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"labels": {"a b": 1}}, ValueError),
        ({"labels": {"a": object()}}, ValueError),
        ({"desired_labels": {"m": {"wrong": 1}}}, ValueError),
        ({"reuse": 5}, TypeError),
        ({"slots": {"gpu": 0}}, ValueError),
        ({"slots": "gpu"}, TypeError),
        ({"limits": {"db": 0}}, ValueError),
        ({"enter": lambda _self: (yield)}, TypeError),
        ({"enter": 3}, TypeError),
        ({"exit": None}, TypeError),
        ({"exit": lambda _self, _reason: None}, TypeError),
        ({"reset": lambda: None}, TypeError),
        ({"reset": batch(lambda _self, items: items)}, TypeError),
        ({"concurrency_groups": {"io": 0}}, ValueError),
        ({"concurrency_groups": ["io"]}, TypeError),
    ],
)
def test_a_class_that_makes_no_sense_is_refused(body, error):
    with pytest.raises(error):
        type(Environment)("Bad", (Environment,), body)


def test_labels_that_are_no_mapping_are_named():
    with pytest.raises(TypeError, match=r"labels are a mapping from key to value, not 'v2'"):
        type("Labelled", (Environment,), {"labels": "v2"})


def test_the_base_class_is_no_environment():
    with pytest.raises(TypeError, match="subclass"):
        specification_of(Environment)


def open_ended(**kwargs):
    return kwargs


@pytest.mark.parametrize(
    ("function", "keyword"),
    [(plain, "priority"), (open_ended, "name"), (print, "timeout"), (Vision.detect, "name")],
)
def test_a_keyword_that_could_be_both_is_refused(function, keyword):
    if could_be_parameter(function, keyword):
        with pytest.raises(TypeError, match=rf"'{keyword}'.*client\.options\({keyword}="):
            split_keywords(function, {keyword: 1})
    else:
        assert split_keywords(function, {keyword: 1}) == ({keyword: 1}, {})


def test_keywords_are_told_apart():
    options, kwargs = split_keywords(
        plain, {"x": 1, "timeout": 2, "desired_labels": {}, "environment": None}
    )

    assert options == {"timeout": 2, "desired_labels": {}, "environment": None}
    assert kwargs == {"x": 1}


@pytest.mark.parametrize("target", [Vision, Vision.using(name="v3")])
def test_options_given_to_a_method_that_was_submitted_before_were_ignored(target):
    options = Options.of({})

    def priority_of(method):
        return plan_for(method, options).plan(is_portable=True).call.priority

    assert priority_of(target.detect) == 0
    marked = task(priority=5)(target.detect)

    assert [priority_of(marked), priority_of(target.detect), priority_of(marked)] == [5, 0, 5]


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args, database="", **kwargs):
        kwargs.pop("retrying", None)
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    ("function", "keyword", "meant"),
    [
        (plain, "retrys", "'retries'"),
        (plain, "prioritty", "'priority'"),
        (Vision.detect, "desired_label", "'desired_labels'"),
        (decorated(plain), "timeuot", "'timeout'"),
        (plain, "y", None),
    ],
)
def test_an_option_that_was_misspelled_went_to_the_function_as_a_keyword(function, keyword, meant):
    with pytest.raises(TypeError, match=f"'{keyword}' is neither an option") as caught:
        split_keywords(function, {keyword: 1})

    assert str(caught.value).endswith(f"did you mean {meant}?" if meant else "()")


@pytest.mark.parametrize(
    ("function", "keyword"),
    [(decorated(plain), "database"), (decorated(plain), "y"), (open_ended, "retrys"), (max, "y")],
)
def test_what_a_function_may_take_is_left_to_it(function, keyword):
    assert split_keywords(function, {keyword: 1}) == ({}, {keyword: 1})


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"replicas": 0}, "replicas=0"),
        ({"replicas": (3, 1)}, "minimum is above the maximum"),
        ({"replicas": (1, 2, 3)}, r"\(minimum, maximum\)"),
        ({"replicas": "two"}, "replicas='two'"),
        ({"replicas": None}, "replicas=None"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": None}, "concurrency=None"),
        ({"concurrency": True}, "concurrency=True"),
        ({"idle_ttl": 0}, "idle_ttl=0"),
        ({"idle_ttl": "1m"}, "'1m'"),
        ({"scaledown_ttl": timedelta(0)}, "scaledown_ttl"),
        ({"scaledown_ttl": float("nan")}, "scaledown_ttl=nan"),
        ({"scope": "run"}, "scope='run' must be 'global' or 'client'"),
        ({"max_tasks": 0}, "max_tasks=0"),
        ({"max_tasks": 1.5}, "max_tasks=1.5"),
        ({"max_memory_mb": 0}, "max_memory_mb=0"),
        ({"max_memory_mb": float("inf")}, "max_memory_mb=inf"),
        # They failed at the first submit, with what the codec said of 64 bits.
        ({"replicas": 10**30}, "replicas=1000000.* must be an int from 1 to 2147483647"),
        ({"replicas": (0, 2**31)}, "from 1 to 2147483647"),
        ({"concurrency": 10**30}, "concurrency=1000000.* from 1 to 2147483647"),
        ({"max_tasks": 10**30}, "max_tasks=1000000.* from 1 to 2147483647"),
        ({"max_memory_mb": 10**400}, "max_memory_mb=1000000.* at most 2147483647"),
        ({"idle_ttl": -(10**400)}, "must be a time above 0"),
    ],
)
def test_a_policy_that_means_nothing_is_refused_where_it_is_written(policy, message):
    with pytest.raises(ValueError, match=message):
        ReusePolicy(**policy)


def test_short_times_and_timedeltas_are_times():
    policy = ReusePolicy(idle_ttl=0.05, scaledown_ttl=timedelta(milliseconds=20))

    assert (policy.idle_ttl_s, policy.scaledown_ttl_s) == (0.05, 0.02)
    assert ReusePolicy(idle_ttl=10**400).idle_ttl_s == float("inf")


@pytest.mark.parametrize("name", ["enter_timeout", "exit_timeout"])
def test_a_time_that_a_hook_may_take_is_above_zero(name):
    with pytest.raises(ValueError, match=f"Bad.{name}=0"):
        type("Bad", (Environment,), {name: 0})


def test_one_replica_with_one_turn_warns_of_starvation_once():
    body = {"reuse": ReusePolicy(replicas=1), "__qualname__": "Narrow"}
    with pytest.warns(UserWarning, match="Narrow: replicas=1 with concurrency=1"):
        type("Narrow", (Environment,), dict(body))
    # Warnings are errors here.
    type("Narrow", (Environment,), dict(body))


def test_the_policy_travels_with_the_call():
    environment = call_of(Policied.run).environment

    assert environment.concurrency == 3
    assert environment.reuse == Reuse(1, 4, 5.0, 2.0, 9, 100, 7.0, None, False)


def test_what_says_nothing_of_copies_is_not_loaded_twice_for_one_call():
    class Large(Environment):
        def ask(self):
            return 0

    reuse = call_of(Large.ask).environment.reuse

    assert (reuse.replicas_min, reuse.replicas_max) == (1, 2)


def test_a_sync_call_is_alone_and_an_async_one_is_not():
    async def shared():
        return 1

    def alone():
        return 1

    class Mixed(Policied):
        def look(self):
            return 1

    assert call_of(Mixed.run).environment.turns == 1
    assert call_of(Mixed.look).environment.turns == 3
    assert call_of(shared, environment=Mixed).environment.turns == 1
    assert call_of(alone, environment=Mixed).environment.turns == 3


def test_the_broker_is_told_of_an_environment_that_is_kept_for_one_process():
    class Own(Environment):
        reuse = ReusePolicy(scope="client")

        def run(self):
            """Do nothing."""

    assert call_of(Own.run).environment.reuse.is_of_client
    assert not call_of(Own.run, reuse=False).environment.reuse.is_of_client
    assert not call_of(Policied.run).environment.reuse.is_of_client


def test_a_method_that_is_called_on_the_class_says_where_it_runs():
    class Vision(Environment):
        def detect(self, image):
            return image + self.offset

    with pytest.raises(TypeError, match=r"'image'; .* client.submit\(.*Vision.detect, ...\)"):
        Vision.detect("an image")
    with pytest.raises(TypeError, match=r"^can only concatenate"):
        Vision.detect(SimpleNamespace(offset=1), "an image")
