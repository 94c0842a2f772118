"""Tasks that run in an actor process: user code that does and asks for what the seed likes."""

from typing import TYPE_CHECKING, Any

from actor.events.starting import start_next
from actor.holding.mailbox import Assignment
from actor.holding.reacquiring import Answer, Reply
from actor.machine.board import ENTERING, FINISHED, STARTED
from tests.sim import labels, typed, waiting
from tests.sim.brokers import HUGE
from tests.sim.counters import named_of
from tests.sim.waiting_ahead import check_strict_start
from wire.errors import Code
from wire.limits import GIVE_BACK
from wire.parts import Environment, Failure, Status, Token

if TYPE_CHECKING:
    from tests.sim.actors import ActorProcess

# What a run waits for, beside the limits by the number of their ask.
ENTERS = -1
# How often a run is followed by the next at once.
FOLLOWS = 0.5
# How often a run fails that may be tried again.
RETRIED_FAILS = 0.5
# What runs ask for from inside.
ASKED = ("a", "b", "k[x]", "host:gpu")
RIVALS = "c[x]"


class Run:
    """A task that runs in an actor process."""

    __slots__ = (
        "asked",
        "assignment",
        "began",
        "ends",
        "enters",
        "gave_for",
        "is_asking",
        "is_released",
        "is_told_to_stop",
        "is_unwanted",
        "is_waiting",
        "regaining",
        "regains",
        "slots",
        "status",
        "task",
        "units",
        "waits_for",
    )

    def __init__(self, assignment: Assignment, task: Any, now: float) -> None:
        """Begin holding a slot."""
        self.began = now
        self.assignment = assignment
        self.task = task
        self.is_released = False
        # Whether it is entering its environment, at first or where it comes back.
        self.enters = assignment.loads
        # How often it asked for limits from inside.
        self.asked = 0
        # The asks that it cannot end without, and how it would end.
        self.waits_for: set[int] = set()
        # Those during which it gave its slots back, and those of them that are over but for these;
        # whether it gives back what it comes back to.
        self.gave_for: set[int] = set()
        self.regaining: dict[int, str] = {}
        self.is_unwanted = False
        self.ends, self.status = False, Status.RESULT
        self.is_told_to_stop = False
        # Whether it waits for a call of its own, and which wait is over but for its slots.
        self.is_waiting = False
        self.regains: waiting.Wait | None = None
        # What it holds of each type, as far as it knows, and which units; whether it asks for more.
        self.slots: dict[str, int] = {}
        self.units: dict[str, tuple[str, ...]] = {}
        self.is_asking = False
        typed.begin(self)


def may_give_back(token: Token) -> bool:
    """Tell whether a run would make way: most would, unless they are of an older actor."""
    return token[1] % 8 != 3


class UserCode:
    """What the runs of one actor process do, from start to end."""

    def __init__(self, actor: "ActorProcess") -> None:
        """Begin with nothing that runs."""
        self.actor = actor
        self.world = actor.world

    def start(self, assignment: Assignment) -> None:
        """Begin a run: load its environment, where it is not loaded, and work."""
        world, token = self.world, assignment.token
        task = world.oracle.started(self.actor, assignment)
        check_strict_start(self.actor, assignment)
        run = self.actor.runs[token] = Run(assignment, task, world.now)
        self.actor.board[token] = ENTERING if assignment.loads else STARTED
        if assignment.recipe.call.limits:
            world.oracle.check_limits()
        world.note("STARTS", self.actor, task.name, token)
        environment = assignment.recipe.call.environment
        rng = world.rng
        if environment is not None and assignment.loads:
            is_entered = rng.random() >= world.profile.enter_fail or world.is_healing
            delay = rng.uniform(0.0, world.profile.run_s)
            if rng.random() < world.profile.enter_crash and not world.is_healing:
                self.actor.later(delay, lambda: self.actor.die(signal=11))
                return
            self.actor.later(delay, lambda: self._loaded(run, environment, is_entered))
        else:
            self._works(run)

    def _loaded(self, run: Run, environment: Environment, is_entered: bool) -> None:
        core, now, token = self.actor.core, self.world.now, run.assignment.token
        if is_entered:
            self.world.note("enters", self.actor, token)
            self.world.oracle.copies.enters(self.actor, environment)
            run.enters = False
            if environment.named is not None:
                self.world.oracle.counters.entered(self.actor, environment)
            core.entered(token, environment, 0.5, now)
        if self.actor.runs.get(token) is not run:
            return
        if is_entered:
            self.actor.board[token] = STARTED
            self.world.oracle.copies.check_count(environment)
            self.world.oracle.copies.failures.pop(environment.id, None)
            self.world.oracle.counters.begins(run.task)
            if run.is_told_to_stop:
                self._finish(run, Status.CANCELED)
            else:
                self._works(run)
            return
        self.world.note("FAILS to enter", self.actor, token)
        self.world.oracle.copies.failed(environment)
        self.world.oracle.counters.failed(environment)
        del self.actor.runs[token]
        if not run.is_told_to_stop:
            self.world.oracle.not_entered(run.task, token)
        core.not_entered(token, Failure("environment-failed", "E", "it failed"), now)

    def _works(self, run: Run) -> None:
        world, profile, rng = self.world, self.world.profile, self.world.rng
        recipe = run.assignment.recipe
        if recipe.is_entry and named_of(recipe.call) is None:
            self._finish(run, Status.RESULT)
            return
        length = rng.uniform(0.0, profile.run_s)
        if rng.random() < profile.hang:
            length *= 8
            world.count("hang")
        if world.is_healing:
            length = min(length, 1.0)
        chance = rng.random
        ends = profile.crash + profile.oom + profile.exits + profile.along
        if not world.is_healing and chance() < ends:
            self.actor.later(length, lambda: self._crashes(run))
            return
        if chance() < profile.release:
            self.actor.later(length * rng.random(), lambda: self._release(run))
        if not world.is_healing and chance() < profile.child:
            self.actor.later(length * rng.random(), lambda: self._submit_child(run))
        if profile.ask and chance() < profile.ask:
            self.actor.later(length * rng.random(), lambda: self._ask(run))
        if profile.churn and chance() < profile.churn and not world.is_healing:
            for _ in range(max(1, round(profile.churn))):
                self.actor.later(length * rng.random(), lambda: labels.flip(self.actor))
        fails = RETRIED_FAILS if run.assignment.recipe.call.retries else profile.fail
        status = Status.FAILURE if chance() < fails else Status.RESULT
        self.actor.later(length, lambda: self._finish(run, status))

    def _crashes(self, run: Run) -> None:
        """Let a run end its process: a signal, the kernel for want of memory, or exit."""
        profile, rng = self.world.profile, self.world.rng
        if not self._is_running(run):
            return
        chances = {"crash": profile.crash, "oom": profile.oom, "exit": profile.exits}
        chances["along"] = profile.along
        (kind,) = rng.choices(list(chances), list(chances.values()))
        self.world.count(kind)
        match kind:
            case "crash":
                self.actor.die(signal=rng.choice((6, 7, 11)))
            case "oom":
                self.actor.die(signal=9)
            case "along":
                self.world.end_all(self.actor.host)
            case _:
                # Also what a process of ours would end with, that means something else.
                self.actor.die(exit_code=rng.choice((0, 1, 3, 4, 5, 6)))

    def _is_running(self, run: Run) -> bool:
        return self.actor.runs.get(run.assignment.token) is run

    def _release(self, run: Run) -> None:
        if self._is_running(run) and not (run.is_released or run.enters):
            token, part = run.assignment.token, typed.part_of(run)
            assert self.actor.core.release(token, part, self.world.now)
            if part is None:
                self.actor.core.prefetch.given_back(self.world.now - run.began)
            run.is_released = part is None
            typed.gave(run, part)
            self.world.count("released a part" if part else "released")
            self.world.note("releases", self.actor, token, *([part] if part else ()))
            # Told apart by the number, so that nothing else of the seed's history changes.
            if self.world.profile.reacquire and token[1] % 3:
                self.actor.later(0.05 * (token[1] % 7), lambda: self._reacquire(run))

    def _reacquire(self, run: Run) -> None:
        token = run.assignment.token
        slots = typed.cost_of(run.assignment.recipe.call)
        if self._is_running(run) and run.slots != slots and not run.is_waiting:
            self.world.note("reacquires", self.actor, token)
            timeout_s = 0.3 if token[1] % 2 else None
            run.is_asking = True
            self.actor.core.reacquire(token, slots, self.world.now, timeout_s=timeout_s)

    def answered(self, answer: Answer) -> None:
        """Go on where the actor says whether a run has its slots again."""
        token, reply = answer.token, answer.reply
        self.world.note("is answered", self.actor, token, reply.value)
        self.world.oracle.copies.gives_up(self.actor, answer.evicts)
        run = self.actor.runs.get(token)
        if run is not None:
            run.is_asking = False
            if reply is Reply.DEADLOCK:
                self.world.oracle.told_of_circle_of_slots(run)
        if run is not None and reply is Reply.GRANTED:
            had_none, run.is_released = run.is_released, False
            call = run.assignment.recipe.call
            typed.regained(run, typed.cost_of(call), answer.units)
            if run.assignment.loads:
                run.enters = True
                # It returns to its code, which may end it, when that is done.
                run.waits_for.add(ENTERS)
                # Told apart by the number, so that nothing else of the seed's history changes.
                delay = 0.05 * (token[1] % 4)
                self.actor.later(delay, lambda: self._entered_again(run, had_none=had_none))
                return
            if had_none:
                self._wants_limits(run)
        if run is not None:
            self._has_slots_or_not(run)

    def _has_slots_or_not(self, run: Run) -> None:
        """Let a run go on behind its waits, for which it wanted its slots again."""
        if run.regains:
            waiting.over(self.actor, run, run.regains)
        for number, code in list(run.regaining.items()):
            del run.regaining[number]
            self._goes_on(run, number, code)

    def _entered_again(self, run: Run, *, had_none: bool) -> None:
        """Let a run go on that came back to what it had to load again, or could not."""
        core, now, token = self.actor.core, self.world.now, run.assignment.token
        environment = run.assignment.recipe.call.environment
        assert environment is not None
        if not self._is_running(run):
            return
        run.enters = False
        run.waits_for.discard(ENTERS)
        if self.world.profile.enter_fail and not (token[1] % 5 or self.world.is_healing):
            self.world.note("FAILS to enter again", self.actor, token)
            core.environment_lost(environment.id, now)
            assert core.release(token, None, now)
            run.is_released = True
            typed.gave(run, None)
        else:
            self.world.note("enters again", self.actor, token)
            self.world.oracle.copies.enters(self.actor, environment)
            core.entered(token, environment, 0.5, now)
            if run.is_unwanted:
                # It was told to make way before it was there: it is to have all of it once more.
                run.is_unwanted = False
                self._gives_back(run)
                self._wants_slots(run)
                return
            if had_none:
                self._wants_limits(run)
        run.is_unwanted = False
        self._has_slots_or_not(run)
        if run.ends and not run.waits_for:
            self._finish(run, run.status)

    def _wants_limits(self, run: Run) -> None:
        """Do as a reacquiring task does: the slots first, then what it had of limits."""
        limits = run.assignment.recipe.call.limits
        if limits:
            token = run.assignment.token
            may_give = may_give_back(token)
            self.actor.core.occupying.ask(run.assignment, token, 0, limits, may_give_back=may_give)
            self.actor.wake_at(self.world.now)

    def _ask(self, run: Run) -> None:
        """Ask for a limit from inside, for a while."""
        if self._is_running(run):
            run.asked += 1
            number, token = run.asked, run.assignment.token
            wanted = {self.world.rng.choice(ASKED): 1}
            if self.world.profile.strict and token[1] % 2:
                wanted = {"s": 1}
            if self.world.profile.rival and self.world.rng.random() < self.world.profile.rival:
                wanted = {RIVALS: 1}
                self.world.oracle.rivals.add(id(run.task.produced))
            self.world.note("asks", self.actor, token, number, wanted)
            may_give = may_give_back(token)
            self.actor.core.occupying.ask(
                run.assignment, token, number, wanted, may_give_back=may_give
            )
            delay = self.world.rng.uniform(0.0, 1.0)
            if delay < 0.5:
                # As a block that is entered without a timeout.
                run.waits_for.add(number)
            else:
                self.actor.later(delay, lambda: self.actor.core.occupying.vacate(token, number))

    def occupied(self, token: Token, number: int, code: str) -> None:
        """Go on where the actor says whether a run has a limit that it asked for."""
        self.world.note("is told", self.actor, token, number, code or "has it")
        run = self.actor.runs.get(token)
        if code == Code.BAD_OPTION and run is not None:
            # It wants again what it had at scheduling, and the limit is less by now.
            assert number == 0, number
            assert "change_limit" in self.world.profile.faults
            assert run.assignment.recipe.call.limits.get("b") == 2
        elif code != Code.BAD_OPTION:
            known = ("", "canceled", "ended", "withdrawn", "deadlock", GIVE_BACK)
            assert code in known, code
        self.world.oracle.check_limits()
        self.actor.tell_host()
        if run is None:
            return
        if code == GIVE_BACK:
            self._makes_way(run, number)
        elif number in run.gave_for:
            run.gave_for.discard(number)
            self._has_its_slots_again(run, number, code)
        else:
            self._goes_on(run, number, code)

    def _goes_on(self, run: Run, number: int, code: str) -> None:
        """Let a run do what comes behind its wait for a limit."""
        if number in run.waits_for:
            if not code and waiting.begin_inside(self.actor, run, number):
                return
            self.actor.later(0.1, lambda: self.leave_block(run, number))

    def _makes_way(self, run: Run, number: int) -> None:
        """Give all slots back while a run waits on, as `limiting` does."""
        run.gave_for.add(number)
        if run.enters:
            run.is_unwanted = True
        elif not run.is_released:
            self._gives_back(run)
            self.world.count("makes way")
            self.world.note("makes way", self.actor, run.assignment.token)

    def _gives_back(self, run: Run) -> None:
        assert self.actor.core.release(run.assignment.token, None, self.world.now, keeps=True)
        run.is_released = True
        typed.gave(run, None)
        self.actor.wake_at(self.world.now)

    def _has_its_slots_again(self, run: Run, number: int, code: str) -> None:
        """Wait for the slots that were given back, unless another wait is to have them."""
        is_kept = not run.is_released and not run.enters
        if is_kept or run.is_waiting or run.is_told_to_stop:
            self._goes_on(run, number, code)
            return
        run.regaining[number] = code
        if not (run.is_asking or run.enters):
            self._wants_slots(run)

    def _wants_slots(self, run: Run) -> None:
        run.is_asking = True
        slots = run.assignment.recipe.slots
        self.actor.core.reacquire(run.assignment.token, slots, self.world.now)
        self.actor.wake_at(self.world.now)

    def leave_block(self, run: Run, number: int) -> None:
        """Let a run go on behind a block, or a wait."""
        run.waits_for.discard(number)
        self.actor.core.occupying.vacate(run.assignment.token, number)
        if run.ends and not run.waits_for:
            self._finish(run, run.status)

    def _submit_child(self, run: Run) -> None:
        if not self._is_running(run):
            return
        record = self.world.submit_child(run.assignment.token)
        profile = self.world.profile
        if record is not None and profile.may_wait and self.world.rng.random() < profile.wait:
            waiting.begin(self.actor, run, record)

    def _finish(self, run: Run, status: Status) -> None:
        token = run.assignment.token
        if not self._is_running(run):
            return
        if run.waits_for:
            run.ends, run.status = True, status
            return
        self._resets(run)
        del self.actor.runs[token]
        self.actor.mailbag.ended += 1
        self.actor.board[token] = FINISHED
        body, frames = self.world.oracle.finished(run.task, token, status)
        if status is Status.RESULT and self.world.is_huge(token[1]):
            run.task.is_huge = True
            frames = (*frames, bytes(HUGE))
        self.world.note("ENDS", self.actor, run.task.name, token, status.value)
        run_s = self.world.now - run.began
        checkpoint = self.world.oracle.counters.finished(self.actor, run.task, token)
        self.actor.core.finished(token, status, body, frames, run_s, self.world.now, checkpoint)
        # As the leader of an actor does between brief runs.
        run.assignment.recipe.run_s = 0.01
        following = start_next(self.actor.core, 1.0) if self.world.rng.random() < FOLLOWS else None
        if following is not None:
            self.start(following)

    def _resets(self, run: Run) -> None:
        """Bring the environment of a run that ends back to where it was, or fail to."""
        place = run.assignment.recipe.call.environment
        if place is None or place.named is not None or run.is_released:
            return
        # Told apart by the number, so that nothing else of the seed's history changes.
        if self.world.profile.enter_fail and run.assignment.token[1] % 9 == 0:
            self.world.note("FAILS to reset", self.actor, run.assignment.token)
            self.world.oracle.copies.spoiled.add((self.actor.incarnation, place.id))
            self.actor.core.environment_lost(place.id, self.world.now)

    def stop(self, token: Token) -> None:
        """Tell a run to stop; not every one does."""
        run = self.actor.runs.get(token)
        if run is None or run.is_told_to_stop:
            return
        run.is_told_to_stop = True
        if self.actor.board[token] == ENTERING:
            # It never starts, whatever becomes of its environment.
            self.world.oracle.not_entered(run.task, token)
            return
        if self.world.rng.random() < 0.6:
            delay = self.world.rng.uniform(0.0, 0.2)
            self.actor.later(delay, lambda: self._finish(run, Status.CANCELED))
