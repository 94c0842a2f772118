"""What a client is told of its broker, and what it says when there is none."""

import contextlib

import pytest

import sdk.connection
import sdk.loop
from sdk import BrokerUnreachable, Client, WarmslotError, gather
from tests.sdk.client.acting import TIMEOUT_S, identity, later
from tests.sdk.fakes import ScriptedBroker
from tests.support.deployment import wait_until
from wire.messages import Query

pytestmark = pytest.mark.process


def test_without_a_broker_a_limit_raises(tmp_path):
    with pytest.raises(BrokerUnreachable, match=r"no broker answered at ipc:.*within 0\.05 s"):
        Client(f"ipc://{tmp_path}/none", connect_timeout=0.05)


def test_without_a_broker_one_line_says_so_and_the_task_waits(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(sdk.connection, "PATIENCE_S", 0.1)
    monkeypatch.setattr(sdk.loop, "LOOK_S", 0.02)
    endpoint = f"ipc://{tmp_path}/late"
    # The broker outlives the client, which otherwise might miss it again.
    with contextlib.ExitStack() as brokers, Client(endpoint) as client:
        future = client.submit(identity, 4)
        lines = []
        wait_until(lambda: lines.extend(capfd.readouterr().err.splitlines()) or lines)
        with pytest.raises(TimeoutError):
            future.result(0.3)
        brokers.enter_context(ScriptedBroker(endpoint=endpoint))
        assert future.result(TIMEOUT_S) == 4

    lines += capfd.readouterr().err.splitlines()
    assert sum("broker_unreachable" in line for line in lines) == 1
    assert sum("broker_reached" in line for line in lines) == 1


def test_why_a_task_waits_is_said_once_a_reason(monkeypatch, capfd, client, broker):
    monkeypatch.setattr(sdk.connection, "PATIENCE_S", 0.05)
    monkeypatch.setattr(sdk.loop, "LOOK_S", 0.02)
    broker.answers["explain"] = {"state": "queued", "reason": "no actor is connected"}
    client.map(identity, ["later"] * 5)
    other = client.submit(identity, "later", desired_labels={"a": 1})

    lines = []
    wait_until(lambda: lines.extend(capfd.readouterr().err.splitlines()) or lines)
    # It goes on asking.
    (end,) = broker.ends.values()
    wait_until(lambda: sum(isinstance(one, Query) for one in end.heard) >= 6)
    assert not other.done()

    lines += capfd.readouterr().err.splitlines()
    assert sum("no actor is connected" in line for line in lines) == 1


def test_calls_outlive_their_broker(tmp_path):
    endpoint = f"ipc://{tmp_path}/broker"
    with Client(endpoint) as client:
        with ScriptedBroker(later, endpoint):
            futures = client.map(identity, range(10))
            assert client.flush(TIMEOUT_S)
        with ScriptedBroker(None, endpoint, epoch=5_000) as second:
            assert gather(futures, timeout=TIMEOUT_S) == list(range(10))

            [end] = second.ends.values()
            assert all(submit.again for submit in end.submits)


def test_the_broker_is_asked(client, broker):
    broker.answers["actors"] = {"actors": [{"name": "h/0"}]}
    broker.answers["explain"] = {"state": "queued", "reason": "r", "actors": {}}
    broker.answers["tasks"] = {"error": "makes no sense"}
    future = client.submit(identity, "later")

    assert client.actors() == [{"name": "h/0"}]
    assert client.explain(future)["reason"] == "r"
    assert future.status() == "queued"
    assert future.accepted(TIMEOUT_S)
    with pytest.raises(WarmslotError, match="makes no sense"):
        client.query("tasks")
    with pytest.raises(ValueError, match="dead-forget: its argument has at most 65,536 characters"):
        client.forget_dead(*["0f5c0a9d3c5b7e21-1"] * 5_000)


def test_a_future_of_another_client_is_explained_as_its_own_client_knows_it(client, broker):
    broker.answers["explain"] = {"state": "queued", "reason": "r", "actors": {}}
    future = client.submit(identity, "later")
    with Client(broker.endpoint) as other:
        assert other.explain(future)["reason"] == "r"

        asked = [
            [one.argument for one in end.heard if isinstance(one, Query)]
            for end in broker.ends.values()
        ]
        assert asked[0] == [str(future.number)]
        assert not any(asked[1:])


@pytest.mark.parametrize(
    ("future", "error"), [(5, TypeError), (None, TypeError), ("", ValueError), (" ", ValueError)]
)
def test_what_names_no_task_is_not_explained(client, future, error):
    with pytest.raises(error, match="the id of a task"):
        client.explain(future)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"desired_labels": {f"k{n}": "x" * 1000 for n in range(2000)}}, "takes 2,.* over 1,048,5"),
        ({"metadata": {"n": 2**70}}, "'identity' cannot be sent: "),
        ({"desired_labels": {"k": "\udcff"}}, "'k'.*no valid text"),
        ({"idempotency_key": "\udcff"}, "no valid text"),
    ],
)
def test_what_no_frame_can_hold_is_refused_and_the_client_goes_on(client, options, text):
    with pytest.raises(ValueError, match=text):
        client.options(**options).submit(identity, 1)
    with pytest.raises(ValueError, match=r"explain .* no valid text"):
        client.query("explain", "\udcff")

    assert client.submit(identity, 2).result(TIMEOUT_S) == 2


def test_a_broker_of_another_protocol_ends_the_client(broker, monkeypatch):
    monkeypatch.setattr("tests.sdk.fakes.encode", lambda frame: b"\x96\x02" + b"\x00" * 5)

    with pytest.raises(WarmslotError, match="speaks protocol 2"):
        Client(broker.endpoint, connect_timeout=TIMEOUT_S)


def test_an_endpoint_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'nonsense'"):
        Client("nonsense")


def test_the_endpoint_comes_from_the_environment(broker, monkeypatch):
    monkeypatch.setenv("WARMSLOT_BROKER", broker.endpoint)

    with Client(connect_timeout=TIMEOUT_S) as client:
        assert client.endpoint == broker.endpoint
