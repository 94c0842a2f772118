"""The host without its socket and its processes: whom to start, when again, what to report.

A death is kept until the broker has received it. The rule that must not be broken: what is reported
comes from the process's end and the board, never from a guess.
"""

from collections import deque
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Any, Final

from actor.settings import EXIT_FORCED, EXIT_RETIRED, EXIT_SPARE, SIGNAL_DRAIN, SLOT, HostSettings
from wire.errors import RemoteProtocolError
from wire.messages import (
    Beat,
    Bye,
    ByeAck,
    Death,
    Drain,
    Error,
    Frame,
    HostBeat,
    HostHello,
    Kill,
    Scale,
)
from wire.parts import Attested
from wire.session import FENCE_KILL_SHARE, Due, PeerSession, State, Verdict

if TYPE_CHECKING:
    from actor.machine.board import Runs

Note = tuple[str, dict[str, Any]]
STARVED: Final = "the kernel ended it, as memory was used up"


class Phase(StrEnum):
    """Where one of the host's actors stands."""

    DUE = "due"  # to be started at `start_at`
    RUNNING = "running"
    SPARE = "spare"  # may be started on the broker's word
    GONE = "gone"  # left for good


class Ward:
    """One actor under the host's care: its place, and the process that fills it now."""

    __slots__ = (
        "backoff_s",
        "cpu_s",
        "has_hung",
        "incarnation",
        "index",
        "is_ended",
        "is_stopped",
        "name",
        "phase",
        "pid",
        "renewed_at",
        "stage",
        "start_at",
        "start_by",
        "started_at",
        "vouched_at",
    )

    def __init__(self, index: int, name: str, now: float, backoff_s: float) -> None:
        """Begin with a start that is due."""
        self.index = index
        self.name = name
        self.phase = Phase.DUE
        self.start_at = now
        self.started_at = now
        # When its process is ended unless its start is over; inf: it is, or may take for ever.
        self.start_by = inf
        # How far the start has come, and whether it was ended for it.
        self.stage = ""
        self.has_hung = False
        self.backoff_s = backoff_s
        self.incarnation = 0
        self.pid = 0
        self.cpu_s = 0.0
        self.is_stopped = False
        # When the broker was sure to hear it, where it may hold strict limits.
        self.renewed_at: float | None = None
        # The same of the host, as long as the broker has not heard it since it was started again.
        self.vouched_at = -inf
        # Whether the host ended the process by its own will, so that no run is to blame.
        self.is_ended = False


class HostCore:
    """Decides everything that a host says and does."""

    def __init__(self, settings: HostSettings, *, incarnation: int, pid: int, now: float) -> None:
        """Begin with every actor due."""
        self.settings = settings
        self.incarnation = incarnation
        self.pid = pid
        self.session = PeerSession(now, seed=incarnation)
        self.wards = [
            Ward(index, f"{settings.name}/{index}", now, settings.restart_first_s)
            for index in range(max(settings.replicas, settings.replicas_max))
        ]
        for ward in self.wards[settings.replicas :]:
            ward.phase = Phase.SPARE
        self.is_draining = False
        # Whether runs were ended since the time to drain was over.
        self.has_timed_out = False
        self._now = now
        self._beat_at = inf
        # When the newest frame was sent that the broker has; one of which it may have: its number,
        # and when it was sent.
        self.renewed_at = -inf
        self._probe = (0, 0.0)
        # Which start of the broker it is, and when HELLO was sent that this one answered first.
        self._epoch = 0
        self._epoch_at = -inf
        self._drain_at = inf
        # Deaths that the broker has not received, with the number of the frame that carries each, 0
        # for none.
        self._deaths: deque[tuple[int, Death]] = deque()
        self._kills: list[Ward] = []
        self._drains: list[Ward] = []
        self._bye_session = 0
        self._notes: list[Note] = []

    @property
    def is_over(self) -> bool:
        """Tell whether nothing is left to watch and nobody to tell."""
        if self.failure is not None:
            return True
        if any(ward.phase is not Phase.GONE for ward in self.wards):
            return False
        return not self.session.is_open or self._now >= self._drain_at

    @property
    def failure(self) -> Error | None:
        """Return why the broker will not talk to this host, if so."""
        error = self.session.error
        return error if self.session.state is State.ENDED and error and error.fatal else None

    @property
    def wants_readings(self) -> bool:
        """Tell whether the next flush says what the processes look like."""
        is_open = self.session.is_open
        return self._now >= (self._beat_at if is_open else self.session.hello_at)

    def deadline(self) -> float:
        """Return when the host next wants a tick."""
        due = min((ward.start_at for ward in self.wards if ward.phase is Phase.DUE), default=inf)
        # Without a session there is nothing to beat for.
        beat_at = self._beat_at if self.session.is_open else inf
        # What an actor may hold is seen once a heartbeat.
        look_at = self._now + self.session.heartbeat_s if self.running() else inf
        ends = (min(self._fence_of(ward), ward.start_by) for ward in self.running())
        return min(self.session.deadline(), beat_at, self._drain_at, due, look_at, *ends)

    def _fence_of(self, ward: Ward) -> float:
        """Return when the process of *ward* is to be ended for the strict limits that it holds."""
        if ward.renewed_at is None or ward.is_ended:
            return inf
        return self._heard_at(ward) + FENCE_KILL_SHARE * self.session.lease_s

    def _heard_at(self, ward: Ward) -> float:
        return max(self.vouches(ward), -inf if ward.renewed_at is None else ward.renewed_at)

    def vouches(self, ward: Ward) -> float:
        """Return since when the broker, which hears us, must have heard of the process of *ward*.

        One that was started again lets others in after a lease, unless it knows what runs there: so
        that it hears the host counts for nothing until it has heard the process itself.
        """
        is_known = ward.renewed_at is not None and ward.renewed_at >= self._epoch_at
        return self.renewed_at if is_known else ward.vouched_at

    def _begin(self, epoch: int) -> None:
        """Note with which start of the broker the session is."""
        if epoch != self._epoch:
            for ward in self.wards:
                ward.vouched_at = self.vouches(ward)
            self._epoch, self._epoch_at = epoch, self.session.said_at

    def running(self) -> list[Ward]:
        """Return the actors that have a process."""
        return [ward for ward in self.wards if ward.phase is Phase.RUNNING]

    def take_spawns(self) -> list[Ward]:
        """Return whose process is to be started; each is answered by `spawned` or `failed`."""
        return [w for w in self.wards if w.phase is Phase.DUE and w.start_at <= self._now]

    def take_kills(self) -> list[Ward]:
        """Return whose process is to be ended at once."""
        kills, self._kills = self._kills, []
        return [ward for ward in kills if ward.phase is Phase.RUNNING]

    def take_drains(self) -> list[Ward]:
        """Return who is to be asked to leave."""
        drains, self._drains = self._drains, []
        return [ward for ward in drains if ward.phase is Phase.RUNNING]

    def take_notes(self) -> list[Note]:
        """Return what happened, for the log and the tests."""
        notes, self._notes = self._notes, []
        return notes

    def tick(self, now: float) -> None:
        """Note the time."""
        self._now = now
        if now >= self._drain_at and self.running():
            self._drain_at = inf
            for ward in self.running():
                ward.is_ended = True
            self._kills += self.running()
            self.has_timed_out = True
            self._note("drain_timed_out", actors=[ward.name for ward in self.running()])
        for ward in self.running():
            if now >= self._fence_of(ward):
                # No run is to blame.
                ward.is_ended = True
                self._kills.append(ward)
                self._note("fenced", actor=ward.name, silent_s=round(now - self._heard_at(ward), 3))
            elif now >= ward.start_by:
                self._give_up_start(ward, now)

    def _give_up_start(self, ward: Ward, now: float) -> None:
        """Have the process of *ward* ended, which hangs in its start; no run is to blame."""
        ward.start_by = inf
        ward.has_hung = ward.is_ended = True
        self._kills.append(ward)
        self._note(
            "actor_start_timed_out",
            actor=ward.name,
            after_s=round(now - ward.started_at, 3),
            stage=ward.stage,
            hint="where it hung stands above; --start-timeout is how long a start may take",
        )

    def spawned(self, ward: Ward, *, incarnation: int, pid: int, now: float) -> None:
        """Note the process that fills *ward* now; without an id it is about to, see `placed`."""
        ward.phase = Phase.RUNNING
        ward.incarnation = incarnation
        ward.pid = pid
        ward.started_at = now
        ward.cpu_s = 0.0
        ward.is_stopped = ward.is_ended = ward.has_hung = False
        ward.renewed_at, ward.vouched_at = None, -inf
        start_timeout_s = self.settings.start_timeout_s
        ward.start_by = inf if start_timeout_s is None else now + start_timeout_s
        if pid:
            self.placed(ward, pid)

    def placed(self, ward: Ward, pid: int) -> None:
        """Note the id of the process of *ward*."""
        ward.pid = pid
        self._note("actor_started", actor=ward.name, pid=pid)

    def failed(self, ward: Ward, reason: str, now: float) -> None:
        """Note that no process could be started for *ward*, at once or after `spawned`."""
        if self.is_draining:
            ward.phase = Phase.GONE
            return
        self._again_later(ward, now)
        self._note("actor_not_started", actor=ward.name, reason=reason, again_s=ward.start_at - now)

    def observed(self, ward: Ward, *, cpu_s: float, is_stopped: bool) -> None:
        """Note what the process of *ward* looks like."""
        ward.cpu_s = cpu_s
        ward.is_stopped = is_stopped

    def died(
        self,
        ward: Ward,
        *,
        exit_code: int | None,
        signal: int | None,
        runs: "Runs",
        overflow: int,
        is_starved: bool,
        has_left: bool,
        now: float,
    ) -> None:
        """Report that a process has ended, and start another unless it left by order."""
        self._now = now
        reason = f"{overflow} more had started than could be noted" if overflow else ""
        if is_starved:
            reason = STARVED
        if exit_code == EXIT_FORCED and not runs.started:  # Which a task can end it with as well.
            reason = "the time to drain was over" if self.is_draining else "a run did not return"
        told = runs.started, reason, *runs[1:]
        self._deaths.append((0, Death(ward.incarnation, exit_code, signal, *told)))
        started = len(runs.started)
        why = self._why_left(exit_code, signal, has_left=has_left, started=started)
        if why:
            self._note("actor_left", actor=ward.name, reason=why, started=started)
        else:
            how = {
                "exit_code": exit_code,
                "signal": signal,
                **({"reason": reason} if reason else {}),
            }
            self._note("actor_died", actor=ward.name, started=started, **how)
        if has_left or self.is_draining:
            ward.phase = Phase.GONE
            return
        ward.phase = Phase.SPARE
        if exit_code == EXIT_SPARE and self._present() >= self.settings.replicas:
            ward.backoff_s = self.settings.restart_first_s
            return
        if exit_code == EXIT_FORCED:
            # It was to end for a run that did not: that says nothing of the next start.
            ward.backoff_s = self.settings.restart_first_s
        ran_well = now - ward.started_at >= self.settings.ran_well_s and not ward.has_hung
        if exit_code == EXIT_RETIRED or ran_well:
            ward.backoff_s = self.settings.restart_first_s
            ward.phase, ward.start_at = Phase.DUE, now
        else:
            self._again_later(ward, now)

    def _why_left(
        self, exit_code: int | None, number: int | None, *, has_left: bool, started: int
    ) -> str:
        """Say in a word why a process has left in order; nothing of one that has died."""
        if exit_code == EXIT_FORCED and self.is_draining:
            return "cut short"  # The time to drain was over.
        if has_left:
            return "drained"
        if started:
            return ""  # A task may end its process with any status.
        if self.is_draining and number == SIGNAL_DRAIN:
            return "drained"  # It was about to start, and could not hear it yet.
        if exit_code == EXIT_RETIRED:
            # The host's own SIGTERM, or somebody else's, or the end of what it was to live.
            return "drained" if self.is_draining else "retired"
        return "not needed" if exit_code == EXIT_SPARE else ""

    def drain(self, now: float, deadline_s: float | None = None) -> None:
        """Ask every actor to leave, and leave with them; after *deadline_s* they are ended."""
        self._now = now
        if deadline_s is not None:
            self._drain_at = min(self._drain_at, now + deadline_s)
        if self.is_draining:
            return
        self.is_draining = True
        self._drains += self.running()
        for ward in self.wards:
            if ward.phase in (Phase.DUE, Phase.SPARE):
                ward.phase = Phase.GONE
        # Without a broker that takes their outcomes they wait for one until then.
        self._note("draining", actors=len(self._drains), at_most_s=deadline_s)

    def receive(self, frame: Frame[Any], now: float) -> None:
        """Act on a frame of the broker. Never raises."""
        self._now = now
        match self.session.accept(frame, now):
            case Verdict.COMMANDS:
                if 0 < self._probe[0] <= frame.received:
                    self._renew(self._probe[1])
                while self._deaths and 0 < self._deaths[0][0] <= frame.received:
                    self._deaths.popleft()
                for command in frame.commands:
                    self._act(command)
            case Verdict.WELCOME:
                self._deaths = deque((0, death) for _, death in self._deaths)
                self._beat_at = now + self.session.heartbeat_s
                self._begin(self.session.epoch)
                # HELLO was the last that was said.
                self._renew(self.session.said_at)
                self._note("connected", epoch=self.session.epoch)
            case Verdict.CLOSED:
                self._note(
                    "session_closed", reason="the broker does not know it, or a frame is missing"
                )
            case Verdict.FATAL:
                assert self.session.error is not None
                self._note("refused", reason=self.session.error.message)
            case Verdict.DROP:
                pass

    def bad(self, error: RemoteProtocolError, now: float) -> None:
        """Note what the broker said wrong, and begin again or end."""
        self._note("bad_frame", code=error.code, reason=error.message)
        self.session.misread(error, now)

    def broken(self, now: float) -> None:
        """Note that a frame could not be sent: there is no connection."""
        self.session.close(now, wait_s=0.25)

    def flush(self, now: float) -> list[Frame[Any]]:
        """Return what is to be sent now, in order."""
        self._now = now
        session = self.session
        due = session.due(now)
        if due is Due.HELLO:
            self._beat_at = inf
            return [session.hello(self._hello(), now)]
        if not session.is_open:
            return []
        commands: list[Any] = []
        for place, (number, death) in enumerate(self._deaths):
            if number == 0:
                commands.append(death)
                self._deaths[place] = (session.sent + 1, death)
        if due is Due.BEAT or now >= self._beat_at:
            self._beat_at = now + session.heartbeat_s
            commands.append(HostBeat(self._attest()))
            if not self._probe[0]:
                self._probe = session.sent + 1, now
        if self._may_leave():
            self._bye_session = session.number
            commands.append(Bye("drained"))
        return [session.frame(commands, now)] if commands else []

    def check(self) -> None:
        """Assert every invariant."""
        numbers = [number for number, _ in self._deaths if number]
        assert numbers == sorted(numbers)
        assert len({w.incarnation for w in self.running()}) == len(self.running())
        if not self.is_draining and not any(w.phase is Phase.GONE for w in self.wards):
            assert self._present() >= self.settings.replicas
        for ward in self.wards:
            assert ward.backoff_s <= self.settings.restart_max_s
            assert not (self.is_draining and ward.phase is Phase.DUE)

    def _renew(self, at: float) -> None:
        self.renewed_at = max(self.renewed_at, at)
        self._probe = (0, 0.0)

    def _act(self, command: object) -> None:
        match command:
            case Kill():
                victims = [w for w in self.running() if w.incarnation == command.incarnation]
                self._kills += victims
                for ward in victims:
                    self._note("kill_ordered", actor=ward.name, reason=command.reason)
            case Scale():
                self._scale(command)
            case Drain():
                self.drain(self._now, command.deadline_s)
            case ByeAck():
                if self._bye_session == self.session.number:
                    self.session.end()
            case Error():
                self._note("told_of_error", code=command.code, reason=command.message)
            case Beat():
                pass
            case _:
                self._note("not_for_a_host", command=type(command).__name__)

    def _scale(self, command: Scale) -> None:
        """Let as many be started as the broker asks for, the lowest number first."""
        missing = command.actors - self._present()
        for ward in self.wards:
            if missing > 0 and ward.phase is Phase.SPARE:
                ward.phase, ward.start_at = Phase.DUE, self._now
                missing -= 1
                self._note("actor_wanted", actor=ward.name, reason=command.reason)

    def _present(self) -> int:
        """Return how many actors there are or are about to be."""
        return sum(ward.phase in (Phase.RUNNING, Phase.DUE) for ward in self.wards)

    def _hello(self) -> HostHello:
        settings = self.settings
        # What the first one that may be started would offer, or else any.
        spare = min(settings.replicas, len(self.wards) - 1)
        return HostHello(
            self.incarnation,
            settings.name,
            self.pid,
            settings.limits,
            self._attest(),
            settings.replicas,
            len(self.wards),
            settings.labels | settings.labels_of.get(spare, {}),
            {SLOT: settings.slots, **settings.typed},
        )

    def _attest(self) -> list[Attested]:
        return [
            Attested(w.incarnation, w.name, w.pid, w.cpu_s, w.is_stopped) for w in self.running()
        ]

    def _may_leave(self) -> bool:
        return (
            all(ward.phase is Phase.GONE for ward in self.wards)
            and self._bye_session != self.session.number
        )

    def _again_later(self, ward: Ward, now: float) -> None:
        ward.phase = Phase.DUE
        ward.start_at = now + ward.backoff_s
        ward.backoff_s = min(ward.backoff_s * 2, self.settings.restart_max_s)

    def _note(self, event: str, **fields: object) -> None:
        self._notes.append((event, fields))
