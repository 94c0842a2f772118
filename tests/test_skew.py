"""Releases that speak different versions of the protocol: each end says so at once, and ends.

A process of another version is the real program, in which the number is another one.
"""

import json
import os
import subprocess
import sys

import pytest

from sdk import Client, ProtocolMismatch
from tests.support.deployment import DEADLINE_S, ROOT, Deployment, environment, is_alive
from wire.messages import PROTOCOL

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S
REFUSED = 3
# What the interpreter runs first, in each process that finds it.
SITE = """
import wire.messages
wire.messages.PROTOCOL = {version}
"""
CALL = """
import os, sys
from sdk import Client, ProtocolMismatch
try:
    Client(sys.argv[1], connect_timeout=60).submit(os.getpid).result(60)
except ProtocolMismatch as error:
    print(error)
"""


@pytest.fixture(params=[PROTOCOL + 1, PROTOCOL - 1], ids=["newer", "older"])
def other(request, tmp_path):
    """Return the variables with which a process speaks another version, and which."""
    return site(tmp_path, request.param), request.param


def told(theirs, mine):
    """Return what is said by who speaks *mine*."""
    return f"the other end speaks protocol {theirs}, this one {mine}"


def site(folder, version):
    (folder / "sitecustomize.py").write_text(SITE.format(version=version))
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def start_broker(world, **variables):
    world.starts += 1
    world.start("broker", "-m", "broker", "--bind", world.endpoint, "--no-journal", **variables)
    world.until(lambda: world.log("broker").count("broker_ready") == world.starts)


def test_a_host_and_a_broker_of_different_versions_both_say_so(other):
    variables, version = other
    with Deployment() as world:
        start_broker(world)

        host = world.start_host("h", "--replicas", "2", "--log-format", "json", **variables)

        assert host.wait(PATIENCE_S) == REFUSED, world.story()
        refused = [json.loads(line) for line in world.log("h").splitlines()][-1]
        assert refused["event"] == "refused"
        assert f"refuses: {told(PROTOCOL, version)}" in refused["reason"]
        assert "protocol-mismatch" in world.log("broker")
        assert told(version, PROTOCOL) in world.log("broker")


def test_a_broker_of_another_version_ends_those_that_were_there_before(other):
    variables, version = other
    with Deployment() as world:
        start_broker(world)
        host = world.start_host("h")
        client = world.client()
        pid = client.submit(os.getpid).result(PATIENCE_S)

        world.kill("broker")
        waiting = client.submit(os.getpid)
        start_broker(world, **variables)

        with pytest.raises(ProtocolMismatch, match=told(version, PROTOCOL)):
            waiting.result(PATIENCE_S)
        with pytest.raises(ProtocolMismatch, match=told(version, PROTOCOL)):
            client.submit(os.getpid).result(PATIENCE_S)
        assert host.wait(PATIENCE_S) == REFUSED, world.story()
        assert told(version, PROTOCOL) in world.log("h")
        assert not is_alive(pid)
        assert told(PROTOCOL, version) in world.log("broker")


def test_an_actor_of_another_version_ends_and_its_host_tries_again(other, tmp_path):
    """A package that is replaced below a host: only what is started from then on is of it."""
    variables, version = other
    with Deployment() as world:
        start_broker(world)
        client = world.client()

        world.start_host("h", "--env", f"PYTHONPATH={variables['PYTHONPATH']}")

        world.until(lambda: world.log("h").count("exit_code=3") >= 2, PATIENCE_S)
        assert told(PROTOCOL, version) in world.log("h")
        assert client.actors() == []
        (tmp_path / "sitecustomize.py").unlink()
        assert client.submit(os.getpid).result(PATIENCE_S)


@pytest.mark.parametrize("who", ["client", "broker"])
def test_a_client_and_a_broker_of_different_versions_both_say_so(other, who):
    variables, version = other
    with Deployment() as world:
        start_broker(world, **(variables if who == "broker" else {}))
        mine = variables if who == "client" else {}

        ends = (PROTOCOL, version) if who == "client" else (version, PROTOCOL)
        said = run(world, "-c", CALL, world.endpoint, **mine)

        assert told(*ends) in said.stdout
        assert told(*reversed(ends)) in world.log("broker")
        command = run(world, "-m", "sdk", "status", "--broker", world.endpoint, **mine)
        assert command.returncode != 0
        line = command.stderr.splitlines()[-1]
        assert told(*ends) in line


def run(world, *arguments, **variables):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=world.folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_what_is_durable_is_there_for_the_next_version(tmp_path):
    """The order of an upgrade: drain, stop the broker, start all of it again."""
    newer = site(tmp_path, PROTOCOL + 1)
    journal = ("--data-dir", str(tmp_path / "data"))
    with Deployment() as world:
        bind = ("-m", "broker", "--bind", world.endpoint, *journal)
        world.start("broker", *bind)
        with Client(world.endpoint, connect_timeout=PATIENCE_S) as client:
            future = client.submit(divmod, 7, 2, durable=True)
            assert future.accepted(PATIENCE_S)

        world.kill("broker", 15)
        world.start("broker", *bind, **newer)
        world.start_host("h", **newer)

        found = f"""
from sdk import Client
with Client({world.endpoint!r}, connect_timeout=60) as client:
    print(client.get_future({future.task_id!r}).result(60))
"""
        assert run(world, "-c", found, **newer).stdout == "(3, 1)\n"
