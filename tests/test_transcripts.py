"""Golden transcripts: what peers say, and what the broker must answer, as protocol.md writes it.

A line `A1: [...] [...]` is one frame of actor 1 (C a client, H a host); `<text>` stands for octets,
`<retriable: OSError: text>` for a failure that may be tried again.
Behind `+` stand payload frames. Indented lines are the broker's answer, without its heartbeats.
`wait 2.5` lets time pass, `cut A1` gives a peer a new connection, `restart` replaces the broker by
one without memory, or with what is on disk after `journal`, where all is written at once. After a
change that is meant, `pytest tests/test_transcripts.py --rewrite` writes the answers anew: read the
difference.
"""

import json
from pathlib import Path

import msgspec
import pytest

from broker.core import Broker
from broker.settings import Settings
from tests.support.disk import Disk
from wire.codec import decode_failure, decode_peer, encode, encode_failure
from wire.errors import Code
from wire.messages import PROTOCOL, Beat, Welcome
from wire.parts import Failure

FOLDER = Path(__file__).parent / "transcripts"
INDENT = "    "
EPOCH = 1000


class Peer:
    def __init__(self, name):
        self.name = name
        self.connection = 0
        self.session = self.epoch = self.sent = self.received = 0

    @property
    def rid(self):
        return f"{self.name}/{self.connection}".encode()


class Stage:
    """A broker, the peers of one transcript, and a clock."""

    def __init__(self):
        self.now = 0.0
        self.epoch = EPOCH
        self.peers = {}
        self.disk = None
        self.start()

    def start(self):
        self.broker = Broker(Settings(), epoch=self.epoch, now=self.now)
        if self.disk is not None:
            self.broker.had_earlier = self.epoch > EPOCH
            self.disk.give_to(self.broker, self.now)

    def perform(self, line):
        """Act on a line and return the broker's answer."""
        word, _, rest = line.partition(" ")
        match word:
            case "wait":
                return self.wait(float(rest))
            case "cut":
                self.peers[rest].connection += 1
                return []
            case "journal":
                self.disk = Disk()
                self.start()
                return []
            case "restart":
                self.epoch += EPOCH
                self.start()
                return []
        name, _, text = line.partition(":")
        text, _, behind = text.partition(" + ")
        payloads = [octets(word) for word in behind.split()]
        return self.say(self.peers.setdefault(name, Peer(name)), commands_in(text), payloads)

    def say(self, peer, commands, payloads):
        if commands[0][0].endswith("-hello"):
            peer.session += 1
            peer.sent = peer.received = number = 0
        else:
            peer.sent += 1
            number = peer.sent
        raw = [PROTOCOL, peer.epoch, peer.session, number, peer.received, commands]
        self.broker.receive(peer.rid, decode_peer(msgspec.msgpack.encode(raw)), payloads, self.now)
        return self.hear()

    def wait(self, seconds):
        heard, end = [], self.now + seconds
        while self.now < end - 1e-9:
            self.now = min(end, self.now + 0.25)
            self.broker.tick(self.now)
            heard += self.hear()
        return heard

    def hear(self):
        lines = self.hear_once()
        sequence, operations = self.broker.take_operations()
        if operations and self.disk is not None:
            self.disk.submit(sequence, operations)
            self.broker.committed(self.disk.write_all(), self.now)
            lines += self.hear()
        return lines

    def hear_once(self):
        lines = []
        for rid, frame, payloads in self.broker.flush(self.now):
            name, _, connection = rid.decode().partition("/")
            peer = self.peers[name]
            if int(connection) != peer.connection:
                self.broker.unreachable(rid, self.now)
                continue
            for command in frame.commands:
                if type(command) is Welcome:
                    peer.epoch = frame.epoch
            if frame.number:
                peer.received = frame.number
            told = [show(c) for c in frame.commands if type(c) is not Beat]
            if payloads:
                told[-1] += " + " + " ".join(shown(bytes(payload)) for payload in payloads)
            lines += [f"{INDENT}B to {name}: {text}" for text in told]
        self.broker.check()
        return lines


def commands_in(text):
    """Read the commands of a line; `<text>` is octets."""
    decoder, at, found = json.JSONDecoder(), 0, []
    text = text.strip()
    while at < len(text):
        command, at = decoder.raw_decode(text, at)
        found.append(octets(command))
        while at < len(text) and text[at] == " ":
            at += 1
    return found


def octets(value):
    if isinstance(value, str) and value.startswith("<retriable: "):
        _, kind, message = value[1:-1].split(": ")
        return encode_failure(Failure(Code.TASK_FAILED, kind, message, retriable=True))
    if isinstance(value, str) and value.startswith("<") and value.endswith(">"):
        return value[1:-1].encode()
    if isinstance(value, list):
        return [octets(item) for item in value]
    if isinstance(value, dict):
        return {key: octets(item) for key, item in value.items()}
    return value


def show(command):
    """Write a command as protocol.md does."""
    return json.dumps(msgspec.msgpack.decode(encode(command)), default=shown)


def shown(value):
    if value.isascii() and value.decode().isprintable():
        return f"<{value.decode()}>"
    found = msgspec.msgpack.decode(value)
    if isinstance(found, dict):
        return f"<{json.dumps(found)}>"
    failure = decode_failure(value)
    history = f", after {failure.history}" if failure.history else ""
    return f"<{Code(failure.code)}: {failure.message}{history}>"


def played(text):
    """Return *text* with the answers that the broker gives now."""
    stage, lines = Stage(), []
    for line in text.splitlines():
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += stage.perform(line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_the_broker_answers_as_written(path, request):
    text = path.read_text(encoding="utf-8")
    found = played(text)
    if request.config.getoption("--rewrite"):
        path.write_text(found, encoding="utf-8")

    assert found == path.read_text(encoding="utf-8")
