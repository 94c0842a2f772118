"""The broker's end for tests: a real ROUTER that does what the test says and nothing else."""

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import zmq

from tests.support.deployment import DEADLINE_S
from wire.codec import decode_peer, encode
from wire.messages import (
    PROTOCOL,
    ActorBeat,
    ActorHello,
    Assign,
    Beat,
    Bye,
    ByeAck,
    ClientHello,
    Credit,
    Frame,
    Function,
    HostHello,
    Outcome,
    Template,
    Welcome,
    Who,
)
from wire.parts import Call, Environment

EPOCH = 1_000
ROOT = Path(__file__).resolve().parents[2]


def welcome(heartbeat_s=0.2):
    return Welcome(heartbeat_s, 2.0, 5.0, 0.0, [], 1000, 2**28, 2**28, 512, 4096)


class Peer:
    """One session, as the broker sees it."""

    def __init__(self, route, hello, session):
        self.route = route
        self.hello = hello
        self.session = session
        self.sent = 0
        self.received = 0
        self.commands = []
        self.payloads = {}
        self.credit = None
        self.functions = {}
        self.templates = 0

    def of(self, kind):
        return [command for command in self.commands if isinstance(command, kind)]

    @property
    def name(self):
        return self.hello.name


class FakeBroker:
    """Answers HELLO and BYE, says BEAT, and leaves the rest to the test."""

    def __init__(self, heartbeat_s=0.2):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self.heartbeat_s = heartbeat_s
        self.peers = {}
        self.ended = []
        self.number = 0
        self.epoch = EPOCH
        self.beat_at = 0.0
        self.processes = []

    def start_host(self, *arguments, env=None):
        process = subprocess.Popen(
            [sys.executable, "-m", "actor", "--broker", self.endpoint, *arguments],
            cwd=ROOT,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()
        self.socket.close()
        self.context.term()

    def until(self, question, timeout_s=DEADLINE_S):
        """Serve until *question* has an answer that is true, and return it."""
        deadline = time.monotonic() + timeout_s
        while True:
            answer = question()
            if answer:
                return answer
            left = deadline - time.monotonic()
            assert left > 0, f"waited {timeout_s} s for nothing: {self.story()}"
            self.serve(min(left, 0.05))

    def until_said(self, process, event):
        """Serve until *process* has written a line with *event* on its stderr, and return that."""
        fd, said = process.stderr.fileno(), bytearray()
        os.set_blocking(fd, False)

        def lines():
            with contextlib.suppress(BlockingIOError):
                said.extend(os.read(fd, 65_536))
            whole = said.decode().rpartition("\n")[0]
            return [line for line in whole.splitlines() if event in line]

        return self.until(lines)[0]

    def story(self):
        return [
            (peer.name, [type(c).__name__ for c in peer.commands][-20:])
            for peer in self.peers.values()
        ]

    def serve(self, wait_s):
        now = time.monotonic()
        if now >= self.beat_at:
            self.beat_at = now + self.heartbeat_s
            for peer in list(self.peers.values()):
                self.say(peer, Beat())
        if not self.socket.poll(int(wait_s * 1000)):
            return
        while True:
            try:
                route, control, *payloads = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.hear(route, decode_peer(control), payloads)

    def hear(self, route, frame, payloads):
        first = frame.commands[0]
        if isinstance(first, ActorHello | HostHello | ClientHello):
            old = self.peers.get(route)
            if old is not None:
                self.ended.append(old)
            self.peers[route] = Peer(route, first, frame.session)
            answer = Frame(PROTOCOL, self.epoch, frame.session, 0, 0, [welcome(self.heartbeat_s)])
            self.socket.send_multipart([route, encode(answer)])
            return
        peer = self.peers.get(route)
        if peer is None or frame.session != peer.session:
            answer = Frame(PROTOCOL, self.epoch, frame.session, 0, 0, [Who()])
            self.socket.send_multipart([route, encode(answer)])
            return
        if frame.number == 0 and isinstance(first, Beat):
            return  # It tells of the large message behind it.
        assert frame.number == peer.received + 1
        peer.received = frame.number
        at = 0
        for command in frame.commands:
            peer.commands.append(command)
            if isinstance(command, Outcome):
                peer.payloads[command.epoch, command.number] = payloads[at : at + command.frames]
                at += command.frames
            elif isinstance(command, Credit):
                peer.credit = command
            elif isinstance(command, ActorBeat):
                peer.credit = command.credit
            elif isinstance(command, Bye):
                self.say(peer, ByeAck())
        assert at == len(payloads)

    def forget(self):
        """Be a broker that has started again."""
        self.epoch += 1
        self.ended += self.peers.values()
        self.peers = {}

    def say(self, peer, *commands, payloads=()):
        peer.sent += 1
        frame = Frame(PROTOCOL, self.epoch, peer.session, peer.sent, peer.received, list(commands))
        self.socket.send_multipart([peer.route, encode(frame), *payloads])

    def find(self, kind, name=None):
        for peer in self.peers.values():
            if isinstance(peer.hello, kind) and name in (None, peer.name):
                return peer
        return None

    def actor(self, name=None):
        """Wait for an actor with credit."""

        def ready():
            peer = self.find(ActorHello, name)
            return peer if peer is not None and peer.credit is not None else None

        return self.until(ready)

    def host(self):
        return self.until(lambda: self.find(HostHello))

    def template(self, peer, function=None, *, environment=None, method="", **options):
        """Send a template with its code; return its slot."""
        commands = []
        digest = b""
        if function is not None:
            code = cloudpickle.dumps(function)
            digest = hashlib.blake2b(code, digest_size=16).digest()
            commands.append(Function(len(peer.functions), digest, code))
            peer.functions[digest] = code
        described = None
        if environment is not None:
            identity, kind, parameters = environment
            blob = cloudpickle.dumps((kind, parameters))
            hashed = hashlib.blake2b(blob, digest_size=16).digest()
            commands.append(Function(len(peer.functions), hashed, blob))
            peer.functions[hashed] = blob
            described = Environment(identity, kind.__name__, hashed, {"model": identity})
        name = options.pop("name", method or getattr(function, "__name__", "task"))
        call = Call(name, digest, method, described, **options)
        slot, peer.templates = peer.templates, peer.templates + 1
        self.say(peer, *commands, Template(slot, call))
        return slot

    def assign(self, peer, template, *args, attempt=1, task=None, **kwargs):
        self.number += 1
        body = cloudpickle.dumps((args, kwargs))
        task = self.number if task is None else task
        self.say(peer, Assign(self.number, 7, task, template, attempt, body))
        return (self.epoch, self.number)

    def run(self, peer, function, *args, **kwargs):
        return self.assign(peer, self.template(peer, function), *args, **kwargs)

    def outcome(self, peer, token, timeout_s=DEADLINE_S):
        def find() -> Callable[[], object]:
            for command in peer.of(Outcome):
                if (command.epoch, command.number) == token:
                    return command
            return None

        return self.until(find, timeout_s)
