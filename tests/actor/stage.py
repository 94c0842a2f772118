"""An actor without a socket, whose runs are real threads and coroutines."""

import contextlib
import queue
import time

import cloudpickle

from actor.machine.board import Board
from actor.running.slot import Slots
from actor.settings import Launch, Settings
from sdk.errors import error_of
from tests.actor.broker_end import BLOB_HASH, connected, make_core
from tests.support.deployment import DEADLINE_S
from wire import payload
from wire.codec import decode_failure
from wire.messages import Function, Template
from wire.parts import Call, Environment, Reuse, Status


class Stage:
    """An actor without a socket: what its loop does, done by the test's own thread."""

    def __init__(self, fd, **settings):
        self.core = make_core(**settings)
        self.end = connected(self.core)
        self.board = Board(fd)
        self.posts = queue.Queue()
        self.started = set()
        self.launch = Launch(
            core=Settings(name="h/0", released_max=settings.get("released_max", 100)),
            broker="tcp://127.0.0.1:1",
            incarnation=9,
            host_name="h",
        )
        self.slots = Slots(self, self.launch, self.board)
        self.codes = 2
        # What was said with each slot that was given back.
        self.held_s = []

    def post(self, method, *arguments):
        self.posts.put((method, arguments))

    # Nothing is looked at between the posts.
    post_quietly = post

    def give_back(self, assignment, give):
        self.held_s.append(give.held_s)
        self.post(self.release, assignment, give)

    def release(self, assignment, give, now):
        give.is_known = True
        self.core.release(assignment.token, give.typed, now, keeps=give.keeps_limits)

    def finish(self, assignment, status, body, frames, run_s, checkpoint, now):  # noqa: PLR0917
        self.slots.ended(assignment)
        self.end.started.pop(assignment.token)
        self.core.finished(assignment.token, status, body, frames, run_s, now, checkpoint)

    def template(self, function, environment=None, exit_timeout_s=10.0, **options):
        """Teach the actor *function*; return the slot of its template."""
        self.codes += 1
        digest = b"%016d" % self.codes
        code = cloudpickle.dumps(function)
        self.end.say(Function(self.codes, digest, code))
        described = None
        if environment is not None:
            blob = cloudpickle.dumps((environment, {}))
            self.end.say(Function(1, BLOB_HASH, blob))
            name = environment.__name__
            reuse = Reuse(exit_timeout_s=exit_timeout_s, enter_timeout_s=600.0)
            described = Environment(name, name, BLOB_HASH, {}, 1, reuse)
        call = Call(getattr(function, "__name__", "f"), digest, "", described, **options)
        slot = len(self.end.templates)
        self.end.templates[slot] = call
        self.end.has_code = True
        self.end.say(Template(slot, call))
        return slot

    def begin(self, template, *args):
        body, _ = payload.dump((args, {}))
        token = self.end.assign(template, body)
        self.settle()
        return token

    def settle(self):
        """Carry what there is to carry, and start and answer as the loop does."""
        stops = self.end.carry()
        for token, assignment in list(self.end.started.items()):
            if token not in self.started:
                self.started.add(token)
                self.slots.start(assignment)
        for order in stops:
            self.slots.stop(order)
        answers, self.end.answers = self.end.answers, []
        for answer in answers:
            self.slots.answer(answer)

    def until(self, question):
        """Work until *question* is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not question():
            assert time.monotonic() < deadline
            with contextlib.suppress(queue.Empty):
                method, arguments = self.posts.get(timeout=0.02)
                method(*arguments, self.end.now)
            self.settle()
        return question()

    def outcome(self, token):
        self.until(lambda: token in self.end.finished)
        return self.end.finished[token]

    def value(self, token):
        outcome = self.outcome(token)
        assert outcome.status is Status.RESULT, decode_failure(outcome.body)
        return payload.load(outcome.body, ())

    def error(self, token):
        outcome = self.outcome(token)
        assert outcome.status is Status.FAILURE
        return error_of(decode_failure(outcome.body))

    def held(self, token):
        return self.core.mailbox.held[token].held
