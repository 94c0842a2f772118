"""Talk to a broker's core in few lines: peers that count frames, a clock, the real codec."""

import msgspec

from broker.core import Broker
from broker.events.defining import define
from broker.settings import Settings
from wire import codec
from wire.limits import read_definition
from wire.messages import (
    PROTOCOL,
    ActorBeat,
    ActorHello,
    Answer,
    Beat,
    ClientHello,
    Credit,
    Frame,
    Function,
    HostBeat,
    HostHello,
    Outcome,
    Query,
    Submit,
    Template,
    Welcome,
)
from wire.parts import Attested, Call, Holding, Kept, Status

CODE = b"c" * 16
NAP_S = 0.25


class Conversation:
    """A broker with the peers that talk to it. Time passes only in `wait`."""

    def __init__(self, *, epoch=1000, recovered=True, disk=None, limits=(), **settings):
        self.now = 100.0
        self.settings = Settings(**settings)
        self.broker = Broker(self.settings, epoch=epoch, now=self.now)
        self.disk = disk
        # As on the command line: each broker begins with them.
        self.limits = [read_definition(text) for text in limits]
        self.begins_with_limits()
        # Whether what is to be written is on disk, and announced, at once.
        self.writes = True
        if disk is not None:
            disk.give_to(self.broker, self.now)
        self.peers = {}
        self.notes = []
        if recovered:
            self.wait(self.settings.adopt_window_s)

    def begins_with_limits(self):
        for definition in self.limits:
            define(self.broker, definition)

    def client(self, incarnation=1, *, unresolved=(), name=None):
        hello = ClientHello(incarnation, name or f"client{incarnation}", "3.11", list(unresolved))
        return Talker(self, hello)

    def actor(self, incarnation=11, *, free=0, **fields):
        """Let an actor say HELLO and, with *free*, state credit."""
        actor = Talker(self, actor_hello(incarnation, **fields))
        if free:
            actor.says(Credit(free))
        return actor

    def host(self, incarnation=90, *, actors=(), name="host", limits=None):
        return Talker(self, HostHello(incarnation, name, 4700, limits or {}, list(actors)))

    def flush(self):
        """Let the broker speak, and every peer hear what is for it."""
        for rid, frame, payloads in self.broker.flush(self.now):
            heard = codec.decode_broker(codec.encode(frame))
            self.peers[rid].hears(heard, list(payloads))
        sequence, operations = self.broker.take_operations()
        if operations and self.disk is not None:
            self.disk.submit(sequence, operations)
            if self.writes:
                self.commits()
        elif operations:
            self.broker.committed(sequence, self.now)
            self.flush()
        self.notes += self.broker.take_notes()
        self.broker.check()

    def commits(self):
        """Write what was decided, and let the broker know."""
        self.broker.committed(self.disk.write_all(), self.now)
        self.flush()

    def restart(self, *, writes_first=False):
        """Kill the broker; the next one has what is on disk. Peers keep what they know."""
        if writes_first:
            self.disk.write_all()
        self.disk.pending.clear()
        self.broker = Broker(self.settings, epoch=self.broker.epoch + 1000, now=self.now)
        self.broker.had_earlier = True
        self.begins_with_limits()
        self.disk.give_to(self.broker, self.now)
        self.broker.check()
        for talker in list(self.peers.values()):
            talker.connects()

    def wait(self, seconds, *, beating=()):
        """Let time pass; those *beating* send a heartbeat every second."""
        end = self.now + seconds
        beat_at = self.now
        while self.now < end - 1e-9:
            self.now = min(end, self.now + NAP_S)
            if self.now >= beat_at:
                beat_at = self.now + 1.0
                for talker in beating:
                    talker.beats()
            if self.now >= self.broker.deadline():
                self.broker.tick(self.now)
            self.flush()

    def sleep(self, seconds):
        """Let time pass of which the broker knows nothing: it was stopped."""
        self.now += seconds

    def wake(self):
        self.broker.tick(self.now)
        self.flush()

    def noted(self, event):
        return [fields for name, fields in self.notes if name == event]

    def task(self, client, number):
        """Return what the broker holds of a task, or None."""
        known = self.broker.clients.get(client.incarnation)
        return known.tasks.get(number) if known else None

    def state(self, client, number):
        task = self.task(client, number)
        return str(task.state) if task else None


class Talker:
    """A peer as the wire sees it: it says what it is told to, and remembers what it hears."""

    serial = 0

    def __init__(self, talk, hello):
        self.talk = talk
        self.hello = hello
        self.incarnation = hello.incarnation
        self.name = hello.name
        self.session = 0
        self.is_deaf = False
        self.connects()
        self.greets()

    def connects(self):
        """Take a new connection; the broker does not notice that the old one is gone."""
        Talker.serial += 1
        self.rid = b"rid%d" % Talker.serial
        self.talk.peers[self.rid] = self
        self.epoch = self.sent = self.received = 0
        self.heard = []

    def greets(self, hello=None, *, epoch=None):
        """Open a session with *hello*, or with the former one."""
        self.hello = hello or self.hello
        self.session += 1
        self.sent = self.received = 0
        self.heard = []
        frame = Frame(
            PROTOCOL, self.epoch if epoch is None else epoch, self.session, 0, 0, [self.hello]
        )
        self.sends(frame)
        return self

    def says(self, *commands, payloads=(), silently=False):
        """Say *commands* in one frame of the session."""
        self.sent += 1
        frame = Frame(PROTOCOL, self.epoch, self.session, self.sent, self.received, list(commands))
        return self.sends(frame, payloads, silently=silently)

    def sends(self, frame, payloads=(), *, silently=False):
        """Send *frame* as it is. *silently*: the broker does not speak yet."""
        read = codec.decode_peer(codec.encode(frame))
        self.talk.broker.receive(self.rid, read, list(payloads), self.talk.now)
        self.talk.broker.check()
        if not silently:
            self.talk.flush()
        return self

    def hears(self, frame, payloads):
        if self.is_deaf:
            return
        for command in frame.commands:
            if isinstance(command, Welcome):
                self.epoch = frame.epoch
        if frame.number and frame.session == self.session:
            assert frame.number == self.received + 1
            self.received = frame.number
        self.heard += [(frame, command, payloads) for command in frame.commands]

    def takes(self, kind):
        """Return the commands of *kind* that were heard since the last call, and forget them."""
        found = [command for _, command, _ in self.heard if isinstance(command, kind)]
        self.heard = [entry for entry in self.heard if not isinstance(entry[1], kind)]
        return found

    def beats(self, *, holding=(), credit=None):
        match self.hello:
            case ActorHello():
                self.says(
                    ActorBeat(
                        credit or Credit(0),
                        self.hello.labels_version,
                        self.hello.labels,
                        list(holding),
                    )
                )
            case HostHello():
                self.says(HostBeat(self.hello.actors))
            case _:
                self.says(Beat())

    def vanishes(self):
        """Let the broker find that the connection is gone."""
        self.talk.broker.unreachable(self.rid, self.talk.now)
        self.talk.flush()

    # --- a client's

    def submits(
        self, *numbers, call=None, body=b"", again=False, tries=0, parent=None, slot=0, key=None
    ):
        call = call or Call("work", CODE)
        self.says(
            Function(0, CODE, b"code"),
            Template(slot, call),
            *(Submit(n, slot, body, 0, again, tries, parent, None, key) for n in numbers),
        )
        return self

    # --- an actor's

    def ends(self, token, body=b"", *, status=Status.RESULT, free=None):
        commands = [Outcome(*token, status, body)]
        if free is not None:
            commands.append(Credit(free))
        return self.says(*commands)


def ask(client, what, argument=""):
    """Return what the broker answers *client*, as it was before it was packed."""
    client.says(Query(9, what, argument))
    [answer] = client.takes(Answer)
    return msgspec.msgpack.decode(answer.body)


def explained(client, number):
    """Return why the task *number* of *client* waits."""
    return ask(client, "explain", str(number))


def actor_hello(
    incarnation=11,
    *,
    name="host/0",
    host=90,
    labels=None,
    slots=None,
    prefetch=0,
    holding=(),
    kept=(),
    stopped=(),
    closed="",
    places=0,
):
    return ActorHello(
        incarnation,
        name,
        host,
        4711,
        "3.11",
        1,
        labels or {},
        slots or {"slot": 2},
        prefetch,
        [Holding(*item) for item in holding],
        [Kept(*item) for item in kept],
        closed=closed,
        stopped=[Holding(*item) for item in stopped],
        places=places,
    )


def attested(incarnation, *, cpu_s=1.0, stopped=False, name="host/0"):
    return Attested(incarnation, name, 4711, cpu_s, stopped)
