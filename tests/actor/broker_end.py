"""The broker's end of one actor's session, without sockets, losing what it is told to."""

from collections import deque

from actor.core import ActorCore
from actor.events.starting import start_next
from actor.settings import Settings
from wire.messages import (
    PROTOCOL,
    ActorBeat,
    ActorHello,
    Assign,
    Bye,
    ByeAck,
    Credit,
    Frame,
    Function,
    LabelsChanged,
    Outcome,
    OutcomeAck,
    Reacquire,
    Reject,
    Release,
    Resides,
    Stop,
    Template,
    Welcome,
    Who,
)
from wire.parts import Call, Environment, Status

EPOCH = 1_000
WELCOME = Welcome(1.0, 2.0, 5.0, 0.0, [], 1000, 2**28, 2**28, 512, 4096)
CODE = b"code"
HASH = b"h" * 16
BLOB_HASH = b"b" * 16


def make_core(*, slots=1, prefetch=0, now=0.0, labels=None, **settings):
    capacity = slots if isinstance(slots, dict) else {"slot": slots}
    return ActorCore(
        Settings(name="h/0", slots=capacity, prefetch=prefetch, labels=labels or {}, **settings),
        incarnation=7,
        now=now,
    )


def environment(identity, concurrency=1, labels=None):
    return Environment(identity, identity, BLOB_HASH, labels or {}, concurrency)


class BrokerEnd:
    """Delivers frames when told, and keeps what the broker would know."""

    def __init__(self, core, now=0.0):
        self.core = core
        self.now = now
        self.epoch = EPOCH
        self.number = 0
        self.to_actor = deque()
        self.to_broker = deque()
        self.session = 0
        self.is_open = False
        self.assigned = {}
        self.finished = {}
        self.rejected = {}
        self.started = {}
        self.absent = set()
        self.answers = []
        self.everything = []
        self.left = False
        self._begin(0)

    def _begin(self, session):
        self.session = session
        self.sent = 0
        self.received = 0
        self.credit = Credit(0)
        self.credit_received = 0
        self.frames_assigned = []
        self.labels_version = 0
        self.labels = {}
        self.templates = {}
        self.has_code = False
        self.released = set()
        self.acks = []
        self.residents = []

    # --- the actor's shell

    def turn(self):
        """Do what the loop of the actor does."""
        self.core.tick(self.now)
        for assignment in self.core.take_starts():
            assert assignment.token not in self.started
            assert assignment.token not in self.absent
            self.started[assignment.token] = assignment
        stops = self.core.take_stops()
        self.answers += self.core.take_answers()
        self.to_broker += self.core.flush(self.now)
        self.core.take_settled()
        self.core.take_notes()
        self.core.check()
        return stops

    def finish(self, token, status=Status.RESULT, body=b"x", checkpoint=None):
        self.started.pop(token)
        self.core.finished(token, status, body, (), 0.5, self.now, checkpoint)

    def follow(self, brief_s):
        """Start the next right behind a run that has just finished, if that is all there is."""
        following = start_next(self.core, brief_s)
        self.core.check()
        if following is not None:
            self.started[following.token] = following
        return following

    # --- the connection

    def carry(self):
        """Deliver everything, both ways, until nothing moves any more."""
        stops = []
        while True:
            stops += self.turn()
            if not (self.to_broker or self.to_actor):
                return stops
            while self.to_broker:
                self.hear()
            while self.to_actor:
                self.tell()

    def cut(self):
        """Lose what is on its way."""
        self.to_actor.clear()
        self.to_broker.clear()

    def pass_time(self, seconds):
        self.now += seconds

    def restart(self):
        """Lose all that the broker knows."""
        self.cut()
        self.epoch += 1
        self.number = 0
        self.is_open = False
        self.assigned = {}
        self._begin(0)

    def tell(self):
        frame, payloads = self.to_actor.popleft()
        self.core.receive(frame, payloads, self.now)
        self.core.check()

    # --- the broker

    def hear(self):
        frame, payloads = self.to_broker.popleft()
        first = frame.commands[0]
        if isinstance(first, ActorHello):
            if frame.session > self.session:
                self._hello(frame, first)
            return
        if not self.is_open or frame.session != self.session or frame.epoch != self.epoch:
            if frame.session >= self.session:
                self._outside(frame.session, Who())
            return
        if frame.number <= self.received:
            return
        if frame.number > self.received + 1:
            self.is_open = False
            self._outside(frame.session, Who())
            return
        self.received = frame.number
        at = 0
        for command in frame.commands:
            self.everything.append(command)
            at = self._hear(frame, command, at, payloads)
        assert at == len(payloads)

    def _hear(self, frame, command, at, payloads):
        match command:
            case Credit():
                self._state(command, frame)
            case ActorBeat():
                self.labels, self.labels_version = command.labels, command.labels_version
                self._state(command.credit, frame)
            case LabelsChanged():
                assert command.version > self.labels_version
                self.labels, self.labels_version = command.labels, command.version
            case Outcome():
                token = (command.epoch, command.number)
                if token in self.assigned:
                    del self.assigned[token]
                    self.finished[token] = command
                self.acks.append(token)
                return at + command.frames
            case Resides():
                self.residents.append((command, payloads[at : at + command.frames]))
                return at + command.frames
            case Reject():
                token = (command.epoch, command.number)
                if self.assigned.pop(token, None) is not None:
                    self.rejected[token] = command.reason
            case Release():
                self.released.add((command.epoch, command.number))
            case Reacquire():
                self.released.discard((command.epoch, command.number))
            case Bye():
                self.left = True
                self.say(ByeAck())
        return at

    def _state(self, credit, frame):
        self.credit = credit
        self.credit_received = frame.received
        self.frames_assigned = [n for n in self.frames_assigned if n > frame.received]

    def _hello(self, frame, hello):
        self._begin(frame.session)
        self.is_open = True
        self.labels, self.labels_version = hello.labels, hello.labels_version
        there = {item.token for item in hello.holding} | {item.token for item in hello.kept}
        for token in [token for token in self.assigned if token not in there]:
            del self.assigned[token]
            self.absent.add(token)
        for token in there:
            # One that a broker without a memory does not know is adopted.
            if token not in self.finished and token not in self.rejected:
                self.assigned.setdefault(token, None)
        self._outside(frame.session, WELCOME)

    def _outside(self, session, command):
        self.to_actor.append((Frame(PROTOCOL, self.epoch, session, 0, 0, [command]), ()))

    @property
    def available(self):
        granted = self.credit.free + self.credit.ahead
        return max(0, granted - len(self.frames_assigned))

    def say(self, *commands, payloads=()):
        self.sent += 1
        frame = Frame(PROTOCOL, self.epoch, self.session, self.sent, self.received, list(commands))
        self.to_actor.append((frame, payloads))
        return frame

    def template(self, call=None, **options):
        """Send a template with its code; return its slot."""
        call = call or Call("f", HASH, **options)
        slot = len(self.templates)
        self.templates[slot] = call
        code = [Function(0, HASH, CODE), Function(1, BLOB_HASH, CODE)]
        self.say(*([] if self.has_code else code), Template(slot, call))
        self.has_code = True
        return slot

    def assign(self, template=None, body=b"args"):
        if template is None:
            template = 0 if self.templates else self.template()
        self.number += 1
        token = (self.epoch, self.number)
        self.frames_assigned.append(self.sent + 1)
        self.assigned[token] = template
        self.say(Assign(self.number, 5, self.number, template, 1, body))
        return token

    def stop(self, token, *, force=False):
        self.assigned.pop(token, None)
        self.say(Stop(token[0], token[1], force, "canceled"))

    def acknowledge(self):
        acks, self.acks = self.acks, []
        if acks:
            self.say(OutcomeAck(acks))


def connected(core):
    """Return the broker's end of an open session."""
    end = BrokerEnd(core)
    end.carry()
    assert end.is_open
    return end


def warm(core, identity, now, load_s=0.1):
    """Let the environment be entered that is loading."""
    replica = core.mailbox.residents.by_id[identity]
    core.entered(min(replica.inside, default=None), replica.environment, load_s, now)


def said(end, kind):
    """Return what the actor said of one kind, in order."""
    return [command for command in end.everything if isinstance(command, kind)]
