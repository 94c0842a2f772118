"""The client's log: lines on stderr, and never a reason for a client to stop."""

import io

import pytest
import structlog
import zmq

from sdk import Client
from sdk.log import logger
from tests.support.deployment import DEADLINE_S, wait_until


class Full(io.StringIO):
    """A standard error on a full disk."""

    def write(self, text):
        raise OSError(28, "No space left on device")


@pytest.fixture
def _chain_that_raises():
    def breaks(*_):
        raise RuntimeError("the user's own")

    structlog.configure(processors=[breaks])
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("stderr", [Full(), None], ids=["full", "closed"])
def test_what_cannot_be_written_does_not_end_the_thread_that_says_it(monkeypatch, stderr):
    monkeypatch.setattr("sys.stderr", stderr)

    logger().warning("task_waits", task="work")


@pytest.mark.usefixtures("_chain_that_raises")
def test_what_goes_wrong_in_the_users_own_chain_stays_there():
    for say in (logger().info, logger().warning, logger().error):
        say("task_waits", task="work")


def test_its_lines_have_the_time_as_those_of_brokers_and_actors_have(capsys):
    logger().warning("task_waits", task="work")

    time, _, rest = capsys.readouterr().err.partition(" ")
    assert time[10] == "T"
    assert time.endswith("Z")
    assert "task_waits" in rest


@pytest.mark.process
def test_whoever_speaks_something_else_at_the_brokers_address_does_not_fill_the_log(capfd):
    with zmq.Context() as context, context.socket(zmq.ROUTER) as stranger:
        stranger.set_hwm(0)  # a ROUTER drops what a peer that is slow to read has no room for
        port = stranger.bind_to_random_port("tcp://127.0.0.1")
        with Client(f"tcp://127.0.0.1:{port}") as client:
            future = client.submit(len, "abc")
            assert stranger.poll(DEADLINE_S * 1000)
            peer, *_ = stranger.recv_multipart()
            for _ in range(1_234):
                stranger.send_multipart([peer, b"HTTP/1.1 400"])
            said = []
            wait_until(lambda: said.append(capfd.readouterr().err) or "count=1000" in "".join(said))
            assert not future.done()

    assert "".join(said).count("bad_frame") == 4
