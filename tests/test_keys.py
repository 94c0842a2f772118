"""Several machines with real processes: who has a key works, who has none hears what is wrong."""

import contextlib
import os
import re
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest
import zmq

from sdk import BrokerUnreachable, Client, NotAuthorized, current_task
from sdk.__main__ import main as warmslot
from tests.support.deployment import DEADLINE_S, HASTY_HOST, Deployment, ended_at_once

pytestmark = [pytest.mark.process, pytest.mark.slow]

HASTY = ("--heartbeat", "0.2", "--suspect", "0.4", "--lease", "1")


def double(number):
    return 2 * number


def outer(number):
    return current_task().client.submit(double, number).result(60) + 1


def hang_at_first(path):
    """Say where it runs, and the first time for ever."""
    task = current_task()
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{task.actor.name}\n")
    if task.attempt == 1:
        threading.Event().wait()
    return task.actor.name


class Machines(Deployment):
    """A broker with keys at any port of loopback, as other machines would find it."""

    def __init__(self, *options):
        super().__init__(*HASTY, *options)
        self.keys = self.folder / "keys"
        self.socket = self.endpoint
        self.change()

    def change(self, *change):
        assert warmslot(["keys", str(self.keys), *change]) == 0

    def add(self, name, role):
        self.change("add", name, role)
        carried = self.folder / name
        (self.keys / "carry" / name).rename(carried)
        return str(carried)

    def begin(self, *options):
        self.endpoint = "tcp://127.0.0.1:*"
        self.broker_options = (*self.broker_options, "--bind", self.socket, *options)
        self.start_broker()
        self.endpoint = re.search(r"tcp://127\.0\.0\.1:\d+", self.log("broker"))[0]

    def status(self, *options):
        """Return how `warmslot status` ends at the broker's address."""
        command = ("-m", "sdk", "status", "--broker", self.endpoint, *options)
        return ended_at_once(sys.executable, *command)


@pytest.fixture
def machines():
    with Machines() as made:
        yield made


@pytest.fixture
def strict(machines):
    """Start a broker with keys."""
    machines.begin("--keys", str(machines.keys))
    return machines


def test_actors_and_clients_with_keys_work_and_calls_inside_tasks_do(strict):
    gpu, lap = strict.add("gpu1", "actor"), strict.add("lap", "client")
    strict.start_host("gpu1", "--keys", gpu, *HASTY_HOST)
    strict.start_host("gpu2", "--start-method", "spawn", *HASTY_HOST, WARMSLOT_KEYS=gpu)
    client = strict.client(keys=lap)
    strict.actors(client, "gpu1/0", "gpu2/0")

    results = [client.submit(outer, 20, desired_labels={"host": h}) for h in ("gpu1", "gpu2")]

    assert [future.result(DEADLINE_S) for future in results] == [41, 41]
    assert strict.status("--keys", lap).returncode == 0


def test_a_key_that_is_spoiled_under_a_host_is_said_in_one_line_and_tried_again(strict):
    gpu, lap = strict.add("gpu1", "actor"), strict.add("lap", "client")
    strict.start_host("gpu1", "--keys", gpu, *HASTY_HOST)
    client = strict.client(keys=lap)
    pid = strict.actors(client, "gpu1/0")["gpu1/0"]["pid"]
    secret = Path(gpu) / "gpu1.key_secret"
    secret.chmod(0o644)

    os.kill(pid, signal.SIGKILL)

    strict.until(lambda: "others can read it" in strict.log("gpu1"))
    assert "Traceback" not in strict.log("gpu1")
    secret.chmod(0o600)
    assert client.submit(double, 4).result(DEADLINE_S) == 8


def test_who_comes_by_the_socket_s_file_needs_no_key(strict):
    strict.endpoint = strict.socket
    strict.start_host("gpu1", *HASTY_HOST)
    client = strict.client(keys="/no/such/folder")

    assert client.submit(outer, 20).result(DEADLINE_S) == 41


def test_the_key_of_a_client_is_none_of_a_host(strict):
    lap = strict.add("lap", "client")

    host = strict.start_host("lap", "--keys", lap)

    assert host.wait(DEADLINE_S) == 3
    said = "refuses: the key 'lap' is that of a client, and not of a host"
    assert said in strict.log("lap")
    assert "not-authorized" in strict.log("broker")


def wrong_broker(machines):
    mine = machines.add("lap", "client")
    warmslot(["keys", str(machines.folder / "others")])
    shutil.copy(machines.folder / "others" / "broker.key", mine)
    return mine


def removed(machines):
    mine = machines.add("lap", "client")
    machines.change("remove", "lap")
    return mine


REFUSALS = [
    (lambda machines: "", "it wants keys: --keys DIR"),
    (removed, "it does not know the key 'lap'"),
]


@pytest.mark.parametrize(("make", "named"), REFUSALS)
def test_each_reason_why_a_peer_is_not_let_in_is_named(strict, make, named):
    keys = make(strict)

    host = strict.start_host("gpu1", "--keys", keys)
    done = strict.status("--timeout", "60", *(["--keys", keys] if keys else []))
    with pytest.raises(NotAuthorized, match=re.escape(strict.endpoint)) as raised:
        Client(strict.endpoint, keys=keys, connect_timeout=DEADLINE_S)

    assert named in str(raised.value)
    assert done.returncode == 1
    # Where the machine is slow a line of the log may have come before.
    assert named in done.stderr.splitlines()[-1]
    strict.until(lambda: named in strict.log("gpu1"))
    assert host.poll() is None


def unreached(machines, keys):
    """Return why a client does not get in that does not wait for long."""
    with pytest.raises((BrokerUnreachable, NotAuthorized)) as raised:
        Client(machines.endpoint, keys=keys, connect_timeout=1.0)
    return str(raised.value)


def test_another_broker_than_that_of_the_keys_may_be_none_and_is_waited_for(strict):
    keys = wrong_broker(strict)
    named = "it is not the broker of"

    strict.start_host("gpu1", "--keys", keys)

    strict.until(lambda: named in unreached(strict, keys))
    strict.until(lambda: named in strict.log("gpu1"))


def test_a_broker_without_keys_is_told_apart(machines):
    machines.begin()
    lap = machines.add("lap", "client")

    # In words of its own, unless the broker is faster to hang up than the client to read.
    machines.until(lambda: "takes no keys" in unreached(machines, lap))


def test_a_host_that_waits_is_let_in_once_its_key_is_there(strict):
    gpu, lap = strict.add("gpu1", "actor"), strict.add("lap", "client")
    public = strict.keys / "actors" / "gpu1.key"
    public.rename(strict.folder / "later")
    strict.start_host("gpu1", "--keys", gpu, *HASTY_HOST)
    strict.until(lambda: "does not know the key" in strict.log("gpu1"))

    (strict.folder / "later").rename(public)

    strict.actors(strict.client(keys=lap), "gpu1/0")
    assert "key_refused" in strict.log("broker")


def test_a_key_that_is_removed_ends_its_host_and_what_ran_there_runs_elsewhere(strict):
    keys = [strict.add(name, "actor") for name in ("gpu1", "gpu2")]
    lap = strict.add("lap", "client")
    hosts = [
        strict.start_host(f"gpu{n}", "--keys", folder, *HASTY_HOST)
        for n, folder in enumerate(keys, start=1)
    ]
    client = strict.client(keys=lap)
    strict.actors(client, "gpu1/0", "gpu2/0")
    ran = strict.folder / "ran"
    future = client.submit(hang_at_first, str(ran))
    first = strict.until(lambda: ran.exists() and ran.read_text()).strip()
    index = int(first[3]) - 1

    strict.change("remove", f"gpu{index + 1}")

    assert hosts[index].wait(DEADLINE_S) == 3
    assert "is none that this broker knows now" in strict.log(f"gpu{index + 1}")
    assert future.result(DEADLINE_S)
    assert len(set(ran.read_text().split())) == 2
    assert hosts[1 - index].poll() is None


def test_a_client_whose_key_is_removed_hears_so_in_its_futures(strict):
    client = strict.client(keys=strict.add("lap", "client"))
    future = client.submit(double, 1)
    assert client.flush(DEADLINE_S)

    strict.change("remove", "lap")

    with pytest.raises(NotAuthorized, match="is none that this broker knows now"):
        future.result(DEADLINE_S)


def test_who_asks_while_a_key_is_refused_hears_so_and_not_that_it_took_too_long(strict):
    client = strict.client(connect_timeout=None, keys=removed(strict))

    with pytest.raises(NotAuthorized, match="it does not know the key 'lap'"):
        client.query("status", timeout=DEADLINE_S)


def test_who_asks_a_broker_that_is_another_one_hears_what_it_looks_like(strict):
    client = strict.client(connect_timeout=None, keys=wrong_broker(strict))

    def said():
        with pytest.raises(TimeoutError) as raised:
            client.query("status", timeout=0.5)
        return str(raised.value)

    strict.until(lambda: "within 0.5 s: it breaks off the handshake: it is not the" in said())


@pytest.mark.parametrize("mechanism", ["null", "plain"])
def test_a_raw_connection_without_a_key_hears_nothing_of_the_broker(strict, mechanism):
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        if mechanism == "plain":
            raw.plain_username, raw.plain_password = b"user", b"word"
        with contextlib.closing(raw.get_monitor_socket(zmq.EVENT_DISCONNECTED)) as monitor:
            raw.connect(strict.endpoint)
            raw.send(b"hello")
            assert monitor.poll(60_000)
            assert not raw.poll(0)
            raw.disable_monitor()
    assert "bad_message" not in strict.log("broker")


def test_every_address_can_be_bound_with_keys_and_none_without(machines):
    without = ended_at_once(
        *(sys.executable, "-m", "broker", "--no-journal", "--bind", "tcp://0.0.0.0:*")
    )
    machines.endpoint = "tcp://0.0.0.0:*"
    machines.broker_options += ("--keys", str(machines.keys))

    machines.start_broker()

    assert without.returncode == 2
    assert "say with --keys DIR whom it lets in" in without.stderr
    assert "tcp://0.0.0.0:" in machines.log("broker")
