"""What must hold whatever happens, seen from outside the cores."""

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from actor.holding import retries
from sdk.errors import NonRetryable
from tests.sim import labels, outcomes, turns
from tests.sim.circles import Circles
from tests.sim.copies import Copies, own_call
from tests.sim.counters import Counters
from tests.sim.crashes import Crashes
from tests.sim.dead import Afterlife
from tests.sim.families import Families
from tests.sim.finality import Finality
from tests.sim.keeping import Keeping
from tests.sim.rates import Rates
from tests.sim.records import TaskRecord
from tests.sim.silence import Silence
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.labels import satisfies_all
from wire.messages import Assign, Requeued, Result
from wire.parts import Failure, Status, Token

if TYPE_CHECKING:
    from actor.holding.mailbox import Assignment
    from tests.sim.actors import ActorProcess
    from tests.sim.clients import ClientProcess
    from tests.sim.waiting import Wait
    from tests.sim.world import World


# Faults in which no broker forgets, and no actor is lost.
KEEPING = {"freeze_broker", "repeat", "pause", "resume", "press"}
STICKY_TTL_S = 8.0


class Oracle:
    """Follows every task, assignment and run."""

    def __init__(self, world: "World") -> None:
        """Begin with nothing submitted."""
        self.world = world
        self.counters = Counters(world)
        self.copies = Copies(world)
        self.dead = Afterlife(world)
        self.crashes = Crashes(world)
        self.keeping = Keeping(world)
        self.rates = Rates(world)
        # Those whose runs asked for the key at which the newest cancels the oldest, by what they
        # produced: all names of a task share that.
        self.rivals: set[int] = set()
        self.tasks: dict[tuple[int, int], TaskRecord] = {}
        self.assigned: dict[Token, tuple[int, int, int]] = {}
        self.started_tokens: set[Token] = set()
        self.highest: dict[int, Token] = {}
        self.epoch_highest = 0
        self.ended_by_death = 0
        # Runs whose outcome ended with their process, and may not have been heard.
        self.taken_along: set[Token] = set()
        # The last assignment of any task when the broker gave a client up.
        self.given_up: dict[int, Token] = {}
        self.executions = 0
        self.grants = turns.Grants()
        self.silence = Silence(world)
        self.families = Families(world)
        self.circles = Circles(world)
        self.finality = Finality(self)
        # Until when which calls wait for an actor that they like better.
        self.fond: dict[Any, float] = {}
        # Where each hard key went last, and when.
        self.bound: dict[str, tuple[str, float]] = {}

    def submitted(
        self, client: "ClientProcess", number: int, call: Any, *, has_parent: bool
    ) -> TaskRecord:
        """Follow a call."""
        record = TaskRecord(client, number, call, has_parent)
        self.tasks[client.incarnation, number] = record
        self.counters.submitted(record)
        self.keeping.submitted(record)
        return record

    def attached(self, client: "ClientProcess", number: int, target: TaskRecord) -> TaskRecord:
        """Follow another name of a durable task."""
        record = TaskRecord(client, number, target.call, target.has_parent)
        record.group, record.origin, record.key = target.group, target.origin, target.key
        record.produced, record.starts = target.produced, target.starts
        record.is_attached = True
        self.tasks[client.incarnation, number] = record
        return record

    def told_assign(self, actor: "ActorProcess", epoch: int, command: Assign) -> None:
        """Check a token at the moment that the broker gives it."""
        token = (epoch, command.number)
        assert token not in self.assigned, f"token {token} is used twice"
        # Within a turn the frames of several actors leave in any order, within one they grow.
        highest = self.highest.get(actor.incarnation, (0, 0))
        assert token > highest, f"token {token} after {highest}"
        self.highest[actor.incarnation] = token
        # Where the clock was set back, only a journal that did not go back as well knows.
        ledger = self.world.ledger
        is_stored = self.world.has_journal and not (ledger is not None and ledger.went_back)
        if is_stored or not self.world.profile.clock_jumps:
            assert epoch >= self.epoch_highest, f"epoch {epoch} after {self.epoch_highest}"
            self.epoch_highest = epoch
        self.assigned[token] = (command.client, command.task, actor.incarnation)
        self.families.told_assign(actor, token)
        self.crashes.assigned(actor, (command.client, command.task), token)
        record = self.tasks.get((command.client, command.task)) or self.own(command)
        self.crashes.counted(actor, record, command.attempt)
        if record.redrives is not None and self.world.ledger is not None:
            task = self.world.broker.core.tokens.get(token)
            assert task is None or task.record is not None, f"{record.name} is not the journal's"
        self.copies.assigned(actor, record.call)
        self.keeping.assigned(actor, command, record.call)
        self.rates.assigned(record.call)
        labels.check_assign(self.world, actor, record.call, token)
        if record.call.sticky is not None and record.call.sticky.hard:
            self.check_hard(actor, record)

    def own(self, command: Assign) -> TaskRecord:
        """Follow a call that the broker makes itself, for which nobody waits."""
        client, call = own_call(self.world, command)
        record = TaskRecord(client, command.task, call, has_parent=False)
        self.tasks[command.client, command.task] = record
        return record

    def check_hard(self, actor: "ActorProcess", record: TaskRecord) -> None:
        """Check that a hard key stays with the actor that it is bound to.

        A broker that was started again may not know; an actor that is gone for long is given up.
        """
        key, now = record.call.sticky.key, self.world.now
        former, used_at = self.bound.get(key, (actor.name, now))
        keeps = self.world.profile.faults.keys() <= KEEPING
        # Where only so many keys are kept, one more ends the binding of the one used first.
        if keeps and not self.world.profile.rebinds and now < used_at + STICKY_TTL_S:
            assert former == actor.name, f"{key} is bound to {former} and goes to {actor.name}"
        self.bound[key] = (actor.name, now)

    def told_results(self, client: "ClientProcess", frame: Any) -> None:
        """Check that what the broker tells of a task is the outcome of its current assignment."""
        known = self.world.broker.core.clients.get(client.incarnation)
        for command in frame.commands:
            record = self.tasks.get((client.incarnation, getattr(command, "task", 0)))
            if type(command) is Requeued:
                self.crashes.requeued((client.incarnation, command.task), command, frame.epoch)
            if self.world.profile.is_gentle and record is not None:
                tries = getattr(command, "tries", getattr(command, "attempt", 1) - 1)
                most = len(record.failures)
                if record.call.environment is not None and record.call.environment.named:
                    # One that was written to start had perhaps begun, for all that a broker knows.
                    most += self.crashes.found[record.origin]
                assert tries <= most, "a try was burned, nobody died or failed"
            task = known.tasks.get(command.task) if known and type(command) is Result else None
            ending = task.ending if task is not None and task.token is not None else None
            is_huge = record is not None and record.is_huge
            if ending is not None and ending.status is not Status.EXPIRED and not is_huge:
                body = outcomes.made_of(record.call, ending)
                assert body.endswith(b" by %d.%d" % task.token), (task.name, body, task.token)

    def started(self, actor: "ActorProcess", assignment: "Assignment") -> TaskRecord:
        """Check a run at the moment that it begins."""
        token = assignment.token
        record = self.tasks[assignment.client, assignment.task]
        owner = (assignment.client, assignment.task, actor.incarnation)
        assert self.assigned.get(token) == owner, f"{token} was not assigned to {actor.name}"
        assert token not in self.started_tokens, f"{token} is started twice"
        self.started_tokens.add(token)
        assert satisfies_all(actor.core.labels, record.call.desires), "labels do not hold at start"
        standing = actor.core.standing
        # Who leaves does so also while it is paused, and its runs' calls may have to run there.
        is_leaving = standing.closed == "draining" and not actor.core.stopping.is_forced
        assert is_leaving or not standing.is_paused, f"{record.name} starts in a paused actor"
        # With a key it is also the next run's of the task that made it.
        maker = self.assigned[record.parent][:2] if record.parent is not None else None
        is_own = any((r.assignment.client, r.assignment.task) == maker for r in actor.runs.values())
        # Its run may have ended since, as the broker did not know yet.
        is_own |= token in self.families.own
        assert not standing.closed or (is_leaving and is_own), (
            f"{record.name} starts although {standing.closed}"
        )
        if self.world.profile.is_told_of_starts:
            # Of what a broker took down with it the next one cannot know whether it had started.
            found = self.crashes.found[record.origin]
            # Nor a broker whose host comes back to it behind the next process, until it is told.
            doubted = self.crashes.doubted.get(token, 0)
            burned = record.burned + len(record.failures) + found + doubted
            assert assignment.attempt <= burned + 1, "a try was burned, nothing had started"
        record.starts.append(token)
        self.dead.started(record)
        self.counters.started(actor, record, assignment)
        self.copies.started(actor, record.call, assignment)
        self.executions += 1
        ledger = self.world.ledger
        # What a journal that was put back does not know of, it may let start again.
        if record.call.at_most_once and not (
            ledger is not None and ledger.went_back and record.call.durable
        ):
            assert len(record.starts) == 1, f"{record.name} is at_most_once and starts again"
        if self.world.profile.is_gentle:
            failures = record.failures
            most = 1 + len(failures) + self.canceled_in_vain(record, token[0])
            assert len(record.starts) <= most, f"{record.name} runs again for nothing"
            assert len(failures) <= record.call.retries, f"{record.name} is tried too often"
            for at in failures.values():
                waited_s = self.world.now - at
                least_s = record.call.backoff.initial_s * (1.0 - record.call.backoff.jitter)
                assert waited_s >= least_s, f"{record.name} has waited for {waited_s} s"
        return record

    def is_rival(self, record: TaskRecord) -> bool:
        """Tell whether a newer task with the same key may cancel it."""
        return "c[x]" in record.call.limits or id(record.produced) in self.rivals

    def canceled_in_vain(self, record: TaskRecord, epoch: int) -> int:
        """Count runs that were ended for a newer task, by brokers of other epochs than *epoch*.

        A broker that dies before its client, or the journal, hears of that leaves the task there.
        """
        return sum(run[0] != epoch and run in self.families.outdone for run in record.starts)

    def not_entered(self, record: TaskRecord, token: Token) -> None:
        """Follow a run that never started, since its environment could not be entered."""
        record.starts.remove(token)
        self.executions -= 1

    def finished(
        self, record: TaskRecord, token: Token, status: Status
    ) -> tuple[bytes, tuple[bytes, ...]]:
        """Make the value of a run, told apart from that of every other run."""
        body = b"%s by %d.%d" % (record.name.encode(), *token)
        record.produced.add((status, body))
        if record.call.retries and status is Status.FAILURE:
            # Told by the token, so that nothing else of the seed's history depends on it.
            forbids = token[1] % 4 == 0
            if not forbids:
                record.failures.setdefault(token, self.world.now)
            error = NonRetryable("not again") if forbids else ValueError("not now")
            retriable = retries.is_retriable(error, record.call)
            failure = Failure(Code.TASK_FAILED, "", body.decode(), retriable=retriable)
            return encode_failure(failure), ()
        if len(body) % 3:
            return body, ()
        return body[:5], (body[5:],)

    def expired(self, token: Token) -> None:
        """Note that a run has had its time, which is a failure."""
        client, number, _ = self.assigned[token]
        record = self.tasks[client, number]
        if record.call.retries:
            record.failures.setdefault(token, self.world.now)

    def died(self, actor: "ActorProcess") -> None:
        """Count what a process took along: runs, and outcomes that were not acknowledged."""
        for token in actor.read_board().started:
            client, task, _ = self.assigned[token]
            self.tasks[client, task].burned += 1
        self.left(actor)
        self.ended_by_death += len(actor.board.keys() | actor.core.outcomes.kept.keys())

    def left(self, actor: "ActorProcess") -> None:
        """Expect nobody to know an outcome that a process, drained or dead, could not say."""
        self.taken_along |= actor.core.outcomes.kept.keys()

    def gave_client_up(self, name: str) -> None:
        """Expect no history of what was assigned until now: what the client submits again is new.

        Runs that go on are stopped, and may fail then; nobody counts that.
        """
        assert self.world.broker is not None
        core = self.world.broker.core
        for record in self.tasks.values():
            if name in (record.client.name, f"{record.client.incarnation:016x}"):
                self.given_up[record.client.incarnation] = (core.epoch, core.assignments)
                self.finality.gave_client_up(record.client.incarnation)
                self.crashes.gave_client_up(record, core.epoch)
                self.counters.given_up(record)

    def resolved(self, client: "ClientProcess", number: int, result: Result, payloads: Any) -> None:
        """Check an outcome at the moment that a future gets it."""
        record = self.tasks[client.incarnation, number]
        body = bytes(result.body) + b"".join(map(bytes, payloads))
        self.dead.resolved(record, result, body)
        is_too_large = result.status is Status.FAILURE and outcomes.is_said_too_large(body)
        if result.status is Status.FAILURE and record.call.retries and result.actor:
            if not is_too_large:
                outcomes.check_given_up(self, record, body)
            body = decode_failure(body).message.encode()
        self.world.note("RESOLVES", client, record.name, result.status, body[:60])
        assert record.resolution is None, f"{record.name} has a second outcome"
        assert not record.is_canceled, f"{record.name} was canceled and has an outcome"
        record.resolution = (result.status, body)
        ledger = self.world.ledger
        if (
            ledger is not None
            and record.group is not None
            and ledger.resolved(client, record, result.status, body, result.actor)
        ):
            return
        if is_too_large:
            assert record.is_huge or record.group is not None, (
                f"{record.name} is said to be too large"
            )
            self.world.count("too large")
            return
        if result.actor and result.status in (Status.RESULT, Status.FAILURE, Status.CANCELED):
            assert (result.status, body) in record.produced, (
                f"no run of {record.name} made {body!r}"
            )
            self.counters.resolved(record, body)
            return
        outcomes.check_code(self, record, result.status, body)

    def told_of_circle(self, wait: "Wait") -> None:
        """Check that who is told of a circle waits for a call that could not end.

        Where something else may have ended it since, nobody can say that.
        """
        profile = self.world.profile
        starts = wait.record.starts
        if not profile.is_gentle or profile.faults or profile.cancel or not starts:
            return
        runs = [actor.runs[starts[-1]] for actor in self.world.actors if starts[-1] in actor.runs]
        assert [run for run in runs if run.waits_for], f"{wait.record.name} waits for nothing"

    def told_of_circle_of_slots(self, asker: Any) -> None:
        """Check that who is told that it never has its slots again is not alone in waiting."""
        profile = self.world.profile
        if profile.is_gentle and not profile.faults and not profile.cancel:
            others = [
                one
                for one in self.world.actors
                for run in one.runs.values()
                if run is not asker and (run.waits_for or run.is_asking or run.is_waiting)
            ]
            assert others, f"{asker.task.name} waits in a circle with nobody"

    def stranded(self) -> set[Token]:
        """Return what waits in a mailbox although another actor has a slot for it."""
        broker = self.world.broker
        if broker is None or not broker.is_alive or broker.core.reservation is not None:
            return set()
        actors = [actor for actor in self.world.actors if actor.is_alive]
        idle = []
        for actor in actors:
            known = broker.core.actors.get(actor.incarnation)
            if known is not None and known.is_open and known.credit.slots_available:
                idle.append((actor, known))
        return {
            waiting.token
            for actor in actors
            for waiting in actor.core.mailbox.waiting
            for other, known in idle
            if other is not actor and is_place_for(waiting, other, known, broker.core)
        }

    def check_limits(self) -> None:
        """Count who runs with a limit; never more than there is, also after a restart.

        Where a lease can end while its run goes on nobody can promise that.
        """
        if not self.world.profile.is_gentle:
            return
        sums: dict[str, int] = {}
        for actor in self.world.actors:
            for run in actor.runs.values() if actor.is_alive else ():
                for held in actor.core.occupying.inventory(run.assignment):
                    for name, amount in held.limits.items() if held.has_it else ():
                        key = f"{name} of {actor.host.name}" if name[:5] == "host:" else name
                        sums[key] = sums.get(key, 0) + amount
        # What has a rate is held by nobody: `rates` looks at that.
        sums.pop("r", None)
        for name, amount in sums.items():
            most = self.world.limit_highest.get(name, 1)
            assert amount <= most, f"{amount} at once with limit {name}"

    def check_strict(self) -> None:
        """Count who is at work with the strict limit: never two, whatever has failed (I14, I18).

        A process that is stopped does nothing, and looks at the clock before anything else. Where a
        run holds its interpreter while its host is stopped nobody can look.
        """
        at_work = [
            run.task.name
            for actor in self.world.actors
            if actor.is_alive and is_at_work(actor)
            for run in actor.runs.values()
            for held in actor.core.occupying.inventory(run.assignment)
            if held.has_it and "s" in held.limits
        ]
        assert len(at_work) <= 1, f"{at_work} have a strict limit at once"

    def open_tasks(self) -> list[TaskRecord]:
        """Return what is still waited for."""
        return [record for record in self.tasks.values() if record.is_open]

    def check_end(self) -> None:
        """Check what can only be said when all is over."""
        self.dead.check_end()
        if self.world.profile.is_deadly:
            failures = sum(len(record.failures) for record in self.tasks.values())
            epoch = self.world.broker.core.epoch
            in_vain = sum(self.canceled_in_vain(record, epoch) for record in self.tasks.values())
            limit = len(self.tasks) + self.ended_by_death + failures + in_vain
            assert self.executions <= limit, f"{self.executions} executions, {limit} explained"


def is_at_work(actor: "ActorProcess") -> bool:
    """Tell whether runs of a process go on, and somebody could end it."""
    return not actor.is_frozen or (actor.is_busy_while_frozen and not actor.host.is_frozen)


def is_place_for(waiting: "Assignment", other: "ActorProcess", known: Any, core: Any) -> bool:
    """Tell whether the broker could let *other* start now what waits elsewhere."""
    task = core.tokens.get(waiting.token)
    if task is None or task.template is UNSET or task.client.is_paused or task.is_released:
        return False
    call = waiting.recipe.call
    # What is sticky waits for the actor that its key is bound to.
    if task.template.shape.sticky:
        return False
    if not satisfies_all(other.core.labels, call.desires) or (task.barred and known in task.barred):
        return False
    # What likes better where it is may wait there as long as it would in the backlog (11.2).
    stays_until = task.queued_at + (call.affinity_wait_s or 0.0)
    if core.ticked_at < stays_until and labels.weight(known, call) < labels.weight(
        task.actor, call
    ):
        return False
    return call.environment is None or known.credit.is_warm(call.environment.id)
