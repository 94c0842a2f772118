"""What a durable submit costs, counted: commits and synchronizings of a real broker, and frames."""

import contextlib
import os
import threading

import pytest
import zmq

from tests.chaos.power import SYNC, WRITE, read
from tests.support.deployment import DEADLINE_S
from tests.test_durable import Journaled, double
from wire.codec import decode_broker, decode_peer
from wire.errors import RemoteProtocolError
from wire.messages import Accepted, Answer, Beat, Query, Submit

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S
SUBMITS = 20
LOG = "journal.db-wal"
# In SQLite's log a page has a head before it; the last one of a commit has the file's length there.
HEAD_BYTES = 24
# What is said without a submit: that one lives, and what a call waits for that waits for long.
BESIDE = (Beat, Query, Answer)

# A broker that notes its accesses to the journal, and whose commits wait at a pipe if there is one.
TRACED = """
import sys
from pathlib import Path
from broker.disk import journal
from tests.chaos.power import trace

commit, hold = journal.commit, Path({hold!r})

def held(*arguments):
    if hold.exists():
        hold.read_bytes()
    commit(*arguments)

journal.commit = held
trace({accesses!r})
from broker.cli import main
sys.exit(main())
"""


class Traced(Journaled):
    """A broker that synchronizes each commit, and tells how often it did."""

    def __init__(self):
        super().__init__()
        self.accesses = self.folder / "accesses"
        self.hold = self.folder / "hold"

    def start_broker(self):
        program = TRACED.format(hold=str(self.hold), accesses=str(self.accesses))
        options = ("--bind", self.endpoint, "--data-dir", str(self.data_dir))
        # However busy the machine is, no session ends in between.
        patient = ("--heartbeat", "20", "--suspect", "40", "--lease", "100")
        self.start("broker", "-c", program, *options, *patient, "--durability", "power")
        self.until(lambda: "broker_ready" in self.log("broker"))

    def counts(self):
        """Return how many commits there were, and what was synchronized."""
        found = read(self.accesses)
        heads = (one.octets[4:8] for one in found if is_head(one))
        return sum(map(any, heads)), [one.name for one in found if one.kind == SYNC]


def is_head(access):
    return access.kind == WRITE and access.name == LOG and len(access.octets) == HEAD_BYTES


class Relay:
    """Stands between one client and the broker, and keeps each frame before it goes on."""

    def __init__(self, world):
        self.endpoint = f"ipc://{world.folder}/relay.sock"
        self._context = zmq.Context()
        self._heard = self._socket(zmq.PULL)
        self._heard.bind("inproc://heard")
        self._sockets = [self._socket(kind) for kind in (zmq.DEALER, zmq.DEALER, zmq.PUSH)]
        near, far, copies = self._sockets
        near.bind(self.endpoint)
        far.connect(world.endpoint)
        copies.connect("inproc://heard")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _socket(self, kind):
        made = self._context.socket(kind)
        made.set(zmq.LINGER, 0)
        made.set_hwm(0)
        return made

    def _run(self):
        with contextlib.suppress(zmq.ContextTerminated):
            zmq.proxy(*self._sockets)
        for one in self._sockets:
            one.close()

    def heard(self):
        """Return the commands of each frame since the last time, but of those beside."""
        found = []
        while self._heard.poll(0):
            control, *_ = self._heard.recv_multipart()
            try:
                frame = decode_peer(control)
            except RemoteProtocolError:
                frame = decode_broker(control)
            if not all(isinstance(command, BESIDE) for command in frame.commands):
                found.append([type(command) for command in frame.commands])
        return found

    def close(self):
        self._heard.close()
        self._context.term()
        self._thread.join()


def test_a_durable_submit_is_one_commit_one_synchronizing_and_one_frame_each_way():
    with Traced() as world:
        world.start_broker()
        with contextlib.closing(Relay(world)) as relay:
            world.endpoint = relay.endpoint
            with world.client() as client:
                # The first one brings its function along, and its call.
                assert client.submit(double, 0, durable=True).accepted(PATIENCE_S)
                commits, synchronized = world.counts()
                relay.heard()

                for number in range(1, SUBMITS + 1):
                    assert client.submit(double, number, durable=True).accepted(PATIENCE_S)

                    # What is told is on disk: the counts are those at this moment, for each.
                    assert relay.heard() == [[Submit], [Accepted]]
                    assert world.counts() == (commits + number, synchronized + [LOG] * number)


def test_a_task_that_is_not_durable_waits_for_no_commit():
    with Traced() as world:
        world.start_broker()
        world.start_host("h", "--slots", "2")
        client = world.client()
        assert client.submit(double, 0, durable=True).result(PATIENCE_S) == 0

        os.mkfifo(world.hold)
        durable = client.submit(double, 1, durable=True)
        others = [client.submit(double, number) for number in range(SUBMITS)]

        assert [other.result(PATIENCE_S) for other in others] == [2 * n for n in range(SUBMITS)]
        assert not durable.accepted(0)
        assert not durable.done()

        with world.hold.open("wb"):
            # Nobody else comes to it before the one that waits goes on.
            world.hold.unlink()
        assert durable.accepted(PATIENCE_S)
        assert durable.result(PATIENCE_S) == 2
