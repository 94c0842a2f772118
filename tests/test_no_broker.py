"""Without a broker a user waits as long as he said, is told so once, and loses nothing."""

import inspect
import textwrap
import time

import pytest

from sdk import BrokerUnreachable, Client, TaskFuture
from tests.support.deployment import Deployment
from tests.test_bad_input import PATIENCE_S, double

pytestmark = [pytest.mark.process, pytest.mark.slow]

LONELY = """
    import sys
    from sdk import Client
    with Client(sys.argv[1]) as client:
        print(client.submit(divmod, 7, 2).result(), flush=True)
"""


def test_without_a_broker_a_connect_timeout_raises(tmp_path):
    endpoint = f"ipc://{tmp_path}/nobody"[:100]

    with pytest.raises(BrokerUnreachable) as caught:
        Client(endpoint, connect_timeout=0.2)

    assert endpoint in str(caught.value)
    assert "python -m broker" in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"connect_timeout": -1}, ValueError),
        ({"connect_timeout": float("nan")}, ValueError),
        ({"connect_timeout": "3"}, TypeError),
        ({"name": "x" * 257}, ValueError),
        ({"name": 5}, TypeError),
    ],
)
def test_what_a_client_cannot_be_made_with_is_named_before_it_talks_to_anybody(
    tmp_path, arguments, error
):
    with pytest.raises(error, match=next(iter(arguments))):
        Client(f"ipc://{tmp_path}/nobody"[:100], **arguments)


def test_without_a_broker_each_question_about_a_task_ends_in_time(tmp_path):
    def patience(question):
        return inspect.signature(question).parameters["timeout"].default

    assert patience(TaskFuture.status) == patience(Client.explain) == patience(Client.query) == 10.0
    with Client(f"ipc://{tmp_path}/nobody"[:100]) as client:
        future = client.submit(divmod, 7, 2)

        with pytest.raises(TimeoutError, match="did not answer"):
            future.status(timeout=0.1)


def test_without_a_broker_a_client_waits_says_so_once_and_loses_nothing():
    with Deployment() as world:
        process = world.start("client", "-c", textwrap.dedent(LONELY), world.endpoint)
        began = time.monotonic()
        world.until(lambda: "broker_unreachable" in world.log("client"))
        assert time.monotonic() - began > 2.0

        world.start_broker()
        world.start_host("h")

        world.until(lambda: process.poll() is not None)
        assert process.returncode == 0
        lines = world.log("client").splitlines()
        assert "(3, 1)" in lines
        assert len([line for line in lines if "broker_unreachable" in line]) == 1
        assert world.endpoint in lines[0]


def test_without_a_broker_an_actor_waits_and_says_so_once():
    with Deployment() as world:
        world.start_host("h")
        world.until(lambda: "broker_unreachable" in world.log("h"))

        world.start_broker()

        assert world.client().submit(double, 4).result(PATIENCE_S) == 8
        assert world.log("h").count("broker_unreachable") == 1
