"""What is refused is told in one short line, however long it is: all of it stood there."""

from itertools import product

import pytest

from sdk import Client, Comparator, Desired, Environment, ReusePolicy, Sticky
from sdk.describing.groups import read_sizes
from sdk.describing.options import Options, split_key
from sdk.futures.found import named_task, read_task_id
from sdk.futures.future import futures_of
from sdk.named import find_actor
from tests.sdk.fakes import ScriptedBroker
from wire.labels import parse_label
from wire.limits import check_amounts, read_definition, read_rate, read_strategy
from wire.texts import TOLD_MAX, brief

LONG, MANY, LARGE, VAST = "k" * 10_000, ["k"] * 5_000, 10**400, 10**5_000
# What else stands in the line.
AROUND_MAX = 250


class Large:
    def __repr__(self):
        return "first\nsecond"


class Broken:
    def __repr__(self):
        raise RuntimeError("no text")


class Vision(Environment):
    def enter(self):
        pass


def test_what_is_short_is_told_as_it_is():
    assert brief("it's") == '"it\'s"'
    assert brief("k" * (TOLD_MAX - 2)) == f"'{'k' * (TOLD_MAX - 2)}'"
    assert brief(Large()) == "first second"


def test_what_has_no_text_is_told_by_its_type():
    assert brief(VAST) == "a value of type int"
    assert brief(Broken()) == "a value of type Broken"


VALUES = {
    "long": LONG,
    "many": MANY,
    "large": LARGE,
    "vast": VAST,
    "mapping": {LONG: LONG},
    "broken": Broken(),
}


OPTIONS = [
    "timeout",
    "schedule_timeout",
    "affinity_wait",
    "retries",
    "retry_backoff",
    "retry_on",
    "priority",
    "slots",
    "limits",
    "desired_labels",
    "sticky",
    "name",
    "fairness_key",
    "metadata",
    "durable",
    "reuse",
    "environment",
    "after",
    "idempotency_key",
]


@pytest.mark.parametrize(
    ("option", "which"),
    # The mapping is metadata.
    [pair for pair in product(OPTIONS, VALUES) if pair != ("metadata", "mapping")],
)
def test_an_option_that_is_refused_is_told_in_one_short_line(option, which):
    with pytest.raises((TypeError, ValueError)) as refused:
        Options.of({option: VALUES[which]})

    is_short(refused)


def is_short(refused):
    text = str(refused.value)
    assert len(text) < 3 * TOLD_MAX + AROUND_MAX
    assert "\n" not in text
    assert "Exceeds the limit" not in text


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: Options.of({LONG: 1}),
        lambda: Options.of({"limits": {"db": LONG}}),
        lambda: Options.of({"limits": {f"db[{LONG}]": 1}}),
        lambda: Options.of({"slots": {"gpu": LARGE}}),
        lambda: Options.of({"metadata": {LONG: MANY}}),
        lambda: Options.of({"desired_labels": {"zone": Desired(MANY)}}),
        lambda: Options.of({"desired_labels": {"zone": Desired(1, weight=LARGE)}}),
        lambda: Options.of({"desired_labels": {"zone": {"value": 1, LONG: 1}}}),
        lambda: Options.of({"desired_labels": {"zone": {"value": 1, "required": LONG}}}),
        lambda: Desired(LONG, Comparator.GREATER_THAN).desire("zone"),
        lambda: Options.of({"sticky": Sticky("key", hard=LONG)}),
        lambda: split_key({"idempotency_key": MANY}),
        lambda: split_key({"idempotency_key": "key", "idempotency_ttl": LARGE}),
        lambda: ReusePolicy(replicas=LARGE),
        lambda: ReusePolicy(idle_ttl=LONG),
        lambda: ReusePolicy(max_tasks=LONG),
        lambda: read_sizes({LONG: LONG}),
        lambda: futures_of("wait", Broken()),
        lambda: futures_of("wait", MANY),
        lambda: named_task(MANY),
        lambda: read_task_id(LONG),
        lambda: check_amounts({LONG: 1}),
        lambda: read_definition(LONG),
        lambda: read_definition(f"db={'9' * 5_000}"),
        lambda: read_rate(LONG),
        lambda: read_strategy(LONG),
        lambda: parse_label(LONG),
        lambda: find_actor(None, LONG, "default", 1.0),
        lambda: find_actor(None, 5, "default", 1.0),
        lambda: Client(LONG),
    ],
)
def test_what_else_is_refused_is_told_in_one_short_line(refuse):
    with pytest.raises((TypeError, ValueError)) as refused:
        refuse()

    is_short(refused)


@pytest.mark.process
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.delete_limit(5),
        lambda client: client.release_limit(5),
        lambda client: client.set_limit(MANY, 1),
        lambda client: client.set_limit("db", LARGE),
        lambda client: client.query(5),
        lambda client: client.query("dead", 5),
        lambda client: client.forget_dead(5),
        lambda client: client.map(len, ["a"], batch=LONG),
        lambda client: client.actor(Vision, name=LONG),
        lambda client: client.actor(Vision, concurrency=LARGE),
    ],
)
def test_what_a_client_is_asked_for_is_refused_before_a_broker_has_it(ask):
    """A question that was no text ended the session, and was said again in the next one."""
    with ScriptedBroker() as broker, Client(broker.endpoint) as client:
        with pytest.raises((TypeError, ValueError)) as refused:
            ask(client)

        is_short(refused)
        assert client.submit(len, "abc").result(10) == "abc"
