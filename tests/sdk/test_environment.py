"""An environment is its name, parameters and version; a method knows the class it is from."""

import abc
import enum
import functools
import os
import pickle
import re
import threading
from datetime import timedelta
from pathlib import Path

import cloudpickle
import pytest

from sdk.describing.options import NO_OPTIONS, Options
from sdk.describing.version import digest_of
from sdk.environment import Environment, MethodReference, ReusePolicy, specification_of
from sdk.errors import SerializationError
from sdk.named import Blueprint, entry_call
from sdk.plan import PYTHON_DESIRE, plan_for
from sdk.task import task
from wire.payload import load_function


class Vision(Environment):
    labels = {"model": "vision"}  # noqa: RUF012 - as users write it.
    desired_labels = {"memory": 512}  # noqa: RUF012

    def enter(self, name="v1"):
        self.name = name

    def detect(self, image):
        return f"{type(self).__name__} {self.name} {image}"

    @task(priority=4, desired_labels={"zone": "eu"})
    def special(self):
        return 1

    @staticmethod
    def plain(x):
        return x

    async def stream(self):
        return 1


class Small(Vision):
    def enter(self, name="small"):
        self.name = name


class Plain:
    def __init__(self, a):
        self.a = a


class Color(enum.Enum):
    RED = 1
    BLUE = 2


ONE, TWO = Plain(1), Plain(2)


def identity(thing):
    return specification_of(thing).identity


def call_of(target, **options):
    return plan_for(target, Options.of(options)).plan(is_portable=True).call


def test_a_method_is_bound_to_the_class_that_it_is_taken_from():
    assert Vision.detect.specification.cls is Vision
    assert Small.detect.specification.cls is Small
    assert Small.detect.function is Vision.detect.function
    assert Vision.detect == Vision.detect != Small.detect


def test_a_method_can_still_be_called():
    small = Small()
    small.enter()

    assert small.detect("cat") == "Small small cat"
    assert Vision.detect(small, "cat") == "Small small cat"
    assert Vision.plain(3) == 3


def test_hooks_are_not_tasks():
    assert not isinstance(Vision.enter, MethodReference)
    assert not isinstance(Vision.using, MethodReference)
    with pytest.raises(AttributeError, match="enter"):
        _ = Vision.using().enter


def test_a_method_becomes_a_call_of_its_environment():
    call = call_of(Vision.detect)

    assert (call.method, call.function, call.name) == ("detect", b"", "Vision.detect")
    assert call.environment.labels == {"model": "vision"}
    assert call.environment.concurrency == 1
    assert {d.key for d in call.desires} == {"memory", "python"}


def test_the_blob_is_class_and_parameters():
    plan = plan_for(Small.using(name="x").detect, NO_OPTIONS).plan(is_portable=True)

    [code] = plan.codes
    kind, parameters = load_function(code.stream)

    assert code.hash == plan.call.environment.blob
    assert (kind.__name__, parameters) == ("Small", {"name": "x"})
    assert kind().reuse.concurrency == 1


def test_a_function_may_want_an_environment():
    def work():
        return 1

    plan = plan_for(work, Options.of({"environment": Vision})).plan(is_portable=True)

    assert len(plan.codes) == 2
    assert {plan.call.function, plan.call.environment.blob} == {c.hash for c in plan.codes}
    assert plan.call.method == ""


def test_another_environment_for_a_method_is_refused():
    with pytest.raises(ValueError, match="Small"):
        call_of(Vision.detect, environment=Small)
    assert call_of(Vision.detect, environment=Vision).method == "detect"


def test_a_method_of_an_instance_names_the_class_to_take_it_from():
    with pytest.raises(TypeError, match=r"submit Vision\.detect, or Vision\.using"):
        plan_for(Vision().detect, NO_OPTIONS)


def test_a_class_is_no_task():
    with pytest.raises(TypeError, match="a function with environment=Vision"):
        plan_for(Vision, NO_OPTIONS)


def test_a_hook_is_no_task():
    with pytest.raises(TypeError, match=r"Vision\.enter is for the actor to call.*=Vision"):
        plan_for(Vision.enter, NO_OPTIONS)

    def enter():
        """Has the name of one."""

    assert plan_for(enter, NO_OPTIONS).name.endswith("enter")


def test_a_partial_of_a_method_says_that_it_would_run_in_no_environment():
    with pytest.raises(TypeError, match=r"submit Vision\.detect itself"):
        plan_for(functools.partial(Vision.detect, "cat"), NO_OPTIONS)


def test_a_class_that_nobody_could_enter_is_refused_before_it_is_tried():
    class Unfinished(Environment, abc.ABC):
        @abc.abstractmethod
        def load(self):
            """Stand below."""

        def run(self):
            """Never reached."""

    class Finished(Unfinished):
        def load(self):
            """Do nothing."""

    class Needy(Environment):
        def __init__(self, need):
            """Never reached."""

        def run(self):
            """Never reached."""

    with pytest.raises(TypeError, match=r"Unfinished is abstract, it lacks load"):
        call_of(Unfinished.run)
    assert call_of(Finished.run).method == "run"
    with pytest.raises(TypeError, match=r"Needy\.__init__\(\): missing.*'need'.* enter\(\)"):
        call_of(Needy.run)


def test_a_parameter_that_cannot_be_sent_is_named():
    with pytest.raises(SerializationError, match=r"argument 'name': a value of type lock cannot"):
        plan_for(Vision.using(name=threading.Lock()).detect, NO_OPTIONS)


def test_a_parameter_of_any_size_travels_as_code_and_its_environment_has_a_name_of_some_letters():
    large, other = (Vision.using(name=end * 1_000_000) for end in "xy")

    plan = plan_for(large.detect, NO_OPTIONS).plan(is_portable=True)

    assert len(plan.key) < 1_000
    assert plan.size > 1_000_000
    assert repr(large.detect).endswith("xxx...)>")
    assert identity(large) != identity(other)


def test_the_same_parameters_are_the_same_environment():
    identities = {
        identity(Vision),
        identity(Vision.using()),
        identity(Vision.using(name="v2")),
        identity(Vision.using(name="v2")),
        identity(Small),
    }

    assert len(identities) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"b": 1}),
        ({"a": object}, {"a": int}),
        ({"a": Path("/x")}, {"a": Path("/y")}),
        ({"a": re.compile("x" * 300)}, {"a": re.compile("x" * 301)}),
        ({"a": Color.RED, "b": Path()}, {"a": Color.BLUE, "b": Path()}),
        ({"a": Plain(1)}, {"a": Plain(2)}),
        ({"a": [ONE, TWO, ONE]}, {"a": [ONE, TWO, TWO]}),
    ],
)
def test_different_parameters_are_different(one, other):
    assert digest_of(one) != digest_of(other)


def test_parameters_of_the_users_own_classes_are_the_same_in_each_process(monkeypatch):
    before = digest_of({"a": Plain(1), "b": Plain})

    for known in ("_DYNAMIC_CLASS_TRACKER_BY_ID", "_DYNAMIC_CLASS_TRACKER_BY_CLASS"):
        monkeypatch.setattr(cloudpickle.cloudpickle, known, {})

    assert digest_of({"a": Plain(1), "b": Plain}) == before


def test_the_order_of_parameters_does_not_count():
    assert digest_of({"a": 1, "b": {2, 1}}) == digest_of({"b": {1, 2}, "a": 1})


def test_a_version_of_ones_own_takes_the_place_of_the_digest():
    class Fixed(Environment):
        version = "2024-06"

    assert identity(Fixed).endswith("::2024-06")


def test_the_identity_changes_with_the_code():
    def make(body):
        scope = {"Environment": Environment, "__name__": "made"}
        exec(f"class Made(Environment):\n    def work(self): return {body}", scope)
        return scope["Made"]

    assert identity(make(1)) == identity(make(1)) != identity(make(2))


class Own(Environment):
    reuse = ReusePolicy(scope="client")

    def work(self):
        return 1


def test_copies_for_one_process_are_not_those_of_one_that_is_forked_from_it():
    here = identity(Own)
    read, write = os.pipe()

    child = os.fork()
    if not child:
        os.write(write, identity(Own).encode())
        os._exit(0)
    os.waitpid(child, 0)
    there = os.read(read, 1000).decode()
    os.close(read)
    os.close(write)

    assert identity(Own) == here
    assert there.split(":")[:-1] == here.split(":")[:-1]
    assert there != here


def test_versions_of_one_environment_have_a_lineage_in_common():
    class One(Vision):
        version = "1"

    kept = call_of(One.detect).environment
    One.version = "2"
    changed = call_of(One.detect).environment

    assert kept.id != changed.id
    assert kept.lineage == changed.lineage
    assert kept.lineage != call_of(One.using(name="x").detect).environment.lineage
    assert kept.lineage != call_of(Vision.detect).environment.lineage
    assert call_of(One.detect, reuse=False).environment.lineage == ""


def test_environments_of_one_class_are_of_a_kind():
    """Whatever their parameters, and in a copy for one call too."""
    kinds = [
        call_of(method, **options).environment.kind
        for method, options in [
            (Vision.detect, {}),
            (Vision.using(name="x").detect, {}),
            (Vision.detect, {"reuse": False}),
        ]
    ]

    assert len(set(kinds)) == 1
    assert kinds[0].endswith(".Vision")
    assert kinds[0] != call_of(Small.detect).environment.kind


def test_unknown_parameters_are_refused_where_they_are_written():
    with pytest.raises(TypeError, match=r"Vision\.enter\(\).*nam"):
        Vision.using(nam="v2")


def test_options_of_a_method_hold_and_the_calls_own_lie_over_them():
    assert call_of(Vision.special).priority == 4
    assert call_of(Vision.special, priority=1).priority == 1
    desires = {
        d.key: d.value for d in call_of(Vision.special, desired_labels={"memory": 9}).desires
    }
    assert desires == {"memory": 9, "zone": "eu", "python": PYTHON_DESIRE.value}


def test_references_travel():
    back = pickle.loads(cloudpickle.dumps(Vision.using(name="x").detect))

    assert back.name == "detect"
    assert back.specification.identity == Vision.using(name="x").identity


def test_a_plan_is_made_once():
    options = Options.of({"priority": 1})

    assert plan_for(Vision.detect, options) is plan_for(Vision.detect, options)
    assert plan_for(len, options) is plan_for(len, options)
    assert plan_for(Vision.detect, options) is not plan_for(Small.detect, options)


def test_a_method_that_is_replaced_is_sent_anew():
    class Patched(Environment):
        def work(self):
            return 1

    before = plan_for(Patched.work, NO_OPTIONS).plan(is_portable=True)
    Patched.work = lambda self: 2

    after = plan_for(Patched.work, NO_OPTIONS).plan(is_portable=True)

    assert before.call.environment.id != after.call.environment.id
    assert before.codes != after.codes


def test_portable_code_is_pinned_only_when_the_arguments_are_not_portable():
    planned = plan_for(len, NO_OPTIONS)

    assert planned.plan(is_portable=True).call.desires == []
    assert planned.plan(is_portable=False).call.desires == [PYTHON_DESIRE]


def test_code_by_value_is_always_pinned_unless_the_user_says_otherwise():
    assert plan_for(lambda: 1, NO_OPTIONS).plan(is_portable=True).call.desires == [PYTHON_DESIRE]
    assert call_of(lambda: 1, desired_labels={"python": "3.12"}).desires[0].value == "3.12"


def test_a_class_says_what_its_tasks_take_and_a_call_says_otherwise():
    class Heavy(Vision):
        slots = {"gpu": 1, "io": 2}  # noqa: RUF012
        limits = {"licence": 1}  # noqa: RUF012

        @task(slots=2)
        def special(self):
            return 1

    class Heavier(Heavy):
        slots = 3

    def plain():
        return 1

    own = call_of(Heavy.detect)
    assert (own.slots, own.limits) == ({"gpu": 1, "io": 2}, {"licence": 1})
    assert call_of(plain, environment=Heavy).slots == own.slots
    assert call_of(Heavier.detect).slots == {"slot": 3}
    assert call_of(Heavy.special).slots == {"slot": 2}
    assert call_of(Vision.detect).slots == {}

    over = call_of(Heavy.detect, slots={"gpu": 2}, limits={"db": 1})
    assert (over.slots, over.limits) == ({"gpu": 2}, {"licence": 1, "db": 1})
    assert call_of(Heavy.detect, slots=1).slots == {}
    actor = entry_call(Blueprint(Heavy, (), {}), {}, 1)
    assert (actor.slots, actor.limits) == (own.slots, own.limits)
    assert entry_call(Blueprint(Heavy, (), {}), {"slots": 1}, 1).slots == {}


# --- options or parameters


def plain(x, priority=None):
    return x


class Policied(Environment):
    reuse = ReusePolicy(
        replicas=(1, 4), idle_ttl=5, scaledown_ttl=2, concurrency=3, max_tasks=9, max_memory_mb=100
    )
    enter_timeout = timedelta(seconds=7)
    exit_timeout = None
    labels = {"policied": 1}  # noqa: RUF012

    async def run(self):
        return 1


def test_an_enter_that_lacks_a_parameter_is_told_before_it_is_tried():
    class Needy(Environment):
        def enter(self, need, other=1):
            """Never reached."""

        def run(self):
            """Never reached."""

    message = r"Needy\.enter\(\): missing a required argument: 'need'; say .*Needy\.using\("
    with pytest.raises(TypeError, match=message):
        call_of(Needy.run)
    with pytest.raises(TypeError, match=message):
        call_of(len, environment=Needy)

    assert call_of(Needy.using(need=2).run).environment.name.endswith("Needy.using(need=2)")


def test_a_fresh_environment_is_another_one_that_offers_nothing():
    kept = call_of(Policied.run).environment
    fresh = call_of(Policied.run, reuse=False).environment

    assert fresh.id == f"{kept.id}:fresh"
    assert fresh.reuse.is_fresh
    assert (fresh.labels, fresh.concurrency) == ({}, 1)
    assert call_of(Policied.run, reuse=True).environment == kept


def test_a_reference_that_was_changed_is_no_more_what_the_class_gives():
    class Own(Environment):
        def work(self):
            return 1

    first = Own.work
    assert Own.work is first

    marked = task(priority=5)(first)

    assert marked is first
    assert Own.work is not first
    assert Own.work == first


def test_a_method_that_was_replaced_is_the_new_one():
    class Own(Environment):
        def work(self):
            return 1

    before = Own.work
    Own.work = lambda self: 2

    assert Own.work is not before
    assert Own.work(None) == 2


def test_an_environment_of_which_anything_changed_is_pickled_again():
    class Own(Environment):
        size = 1

        def work(self):
            return 1

    def other(self):
        return 2

    code = specification_of(Own).captured()
    assert specification_of(Own).captured() is code

    for change in (
        lambda: setattr(Own, "size", 2),
        lambda: setattr(Own, "more", 3),
        lambda: setattr(Own.work.function, "__code__", other.__code__),
        lambda: setattr(Own.work.function, "__defaults__", (1,)),
        lambda: setattr(Own.work.function, "__kwdefaults__", {"a": 1}),
        lambda: setattr(Own.work.function, "mark", 1),
    ):
        change()
        assert not code.is_current
        code = specification_of(Own).captured()
        assert code.is_current
