"""That descriptors run low is said in time, once, and again after there were more."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker import descriptors as descriptors_module
from broker.descriptors import Descriptors
from sdk import BrokerUnreachable, Client
from tests.support.deployment import Deployment


@pytest.fixture
def limits():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield limits
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_nobody_was_told_that_descriptors_run_out(limits):
    reading, writing = os.pipe()
    descriptors = Descriptors(reading, clock=lambda: 0.0)
    assert descriptors.look(0.0) == []

    # Above the pipe nothing is open that was not before, and one more may be.
    resource.setrlimit(resource.RLIMIT_NOFILE, (writing + 1, limits[1]))
    assert descriptors.look(0.005) == [], "it does not look each time"
    ((event, said),) = descriptors.look(1.0)

    assert (event, said["limit"]) == ("descriptors_low", writing + 1)
    assert descriptors.look(2.0) == []
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert descriptors.look(3.0) == []
    resource.setrlimit(resource.RLIMIT_NOFILE, (writing + 1, limits[1]))
    assert len(descriptors.look(4.0)) == 1
    os.close(reading)
    os.close(writing)


def test_who_is_connected_by_ipc_goes_on_while_nobody_more_may_connect(limits, tmp_path):
    path = tmp_path / "broker"
    endpoints = [f"ipc://{path}", "ipc://@abstract", "tcp://127.0.0.1:5555"]
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        descriptors = Descriptors(listening.fileno(), clock=lambda: 0.0)
        used = len(list(Path("/dev/fd").iterdir()))

        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, limits[1]))
        assert descriptors.look(0.0, endpoints)
        assert [one.name for one in tmp_path.iterdir()] == ["broker.shut"]

        # With a few more it would be shut again at once.
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, limits[1]))
        assert descriptors.look(1.0, endpoints) == []
        assert not path.exists()
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, limits[1]))
        assert descriptors.look(2.0, endpoints) == []
        assert [one.name for one in tmp_path.iterdir()] == ["broker"]


def test_a_broker_with_thousands_did_nothing_but_count_them(limits, monkeypatch):
    times, counted = iter([5.0, 5.05, 6.0, 6.001]), []
    descriptors = Descriptors(0, clock=lambda: next(times))
    monkeypatch.setattr(descriptors, "_count", lambda limit: counted.append(limit) or 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, limits[1]))

    for now in (10.0, 10.01, 10.49, 10.5, 10.509):
        descriptors.look(now)

    assert len(counted) == 2


def test_those_that_early_clients_gave_back_hid_that_thousands_were_used(limits):
    if limits[1] != resource.RLIM_INFINITY and limits[1] < 5_000:
        pytest.skip("there may be no thousands of descriptors here")
    if not (Path("/proc/self/fd").exists() and Path("/proc/self/fd").stat().st_size):
        pytest.skip("a Linux before 6.2, or none")
    resource.setrlimit(resource.RLIMIT_NOFILE, (5_000, limits[1]))
    first, *others = [os.dup(0) for _ in range(4_700)]
    os.close(first)

    said = Descriptors(0).look(0.0)

    for one in others:
        os.close(one)
    assert [event for event, _ in said] == ["descriptors_low"]


def test_where_they_cannot_be_counted_nobody_is_shut_out(limits, tmp_path, monkeypatch):
    path = tmp_path / "broker"
    path.touch()
    monkeypatch.setattr(descriptors_module, "FOLDER", str(tmp_path / "none"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, limits[1]))

    assert Descriptors(0).look(0.0, [f"ipc://{path}"]) == []
    assert path.exists()


@pytest.mark.process
def test_a_broker_that_listens_on_ipc_outlives_that_it_has_no_descriptors_left():
    """ZeroMQ ends the process that cannot accept there: "Too many open files", status 134."""
    with Deployment("--heartbeat", "0.1") as it:
        it.start_broker()
        path = Path(it.endpoint.removeprefix("ipc://"))
        pid = it.processes["broker"].pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
        client = it.client()
        assert client.query("status")
        others = []
        while path.exists():
            try:
                other = it.client(connect_timeout=5.0)
            except BrokerUnreachable:
                # The broker has shut it since we looked.
                assert not path.exists()
                break
            others.append(other)
            assert other.query("status")
            assert len(others) < 64

        it.until(lambda: "descriptors_low" in it.log("broker"))
        with pytest.raises(BrokerUnreachable, match="no descriptors left"):
            Client(it.endpoint, connect_timeout=0.5)
        assert client.query("status")["clients"] == 1 + len(others)
        second = subprocess.run(
            [sys.executable, "-m", "broker", "--bind", it.endpoint, "--no-journal"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "a broker listens there already" in second.stderr

        for other in others:
            other.close()
        assert it.client().query("status")["clients"] == 2
        it.kill("broker", 15)
        assert not path.exists()
