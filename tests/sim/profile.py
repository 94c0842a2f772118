"""What one seed is like: sizes, delays, and how likely each fault is, each drawn for itself.

Many faults at once hide one another, so every seed leaves most of them out (swarm testing).
"""

from dataclasses import dataclass, field, replace
from random import Random

from tests.sim.kinds import KINDS

FAULTS = (
    "broker_kill",
    "actor_kill",
    "machine_kill",
    "machine_lost",
    "client_kill",
    "cut",
    "partition",
    "freeze_broker",
    "freeze_actor",
    "hold_gil",
    "freeze_client",
    "freeze_host",
    "repeat",
    "lose",
    "relabel",
    "drain_machine",
    "pause",
    "resume",
    "press",
    "client_leave",
    "disk_full",
)
# Those that came later are drawn apart, so that what a seed drew before stays as it is.
MORE_FAULTS = (
    "second_broker",
    "machine_joins",
    "machine_twice",
    "stall",
    "slow_client",
    "drain_actor",
    "resize_machine",
    "change_limit",
    "garble",
    "truncate",
    "half_open",
    "flap",
    "one_way",
    "late_result",
    "refuse_send",
    "stranger",
    "skew",
    "disk_slow",
    "disk_error",
    "power_loss",
)
# And those that came later still.
LATER_FAULTS = ("start_hangs", "old_journal")
LATER = 0.15
# Where a broker may end in the middle of a turn, the last three with a journal only.
POINTS = ("received", "send", "flushed", "submitted", "written", "announced", "committed")
MIDWAY = tuple(f"broker_kill_{point}" for point in POINTS)
# Ways in which a connection ends, apart from `cut`, which draws how.
ENDINGS = ("unreachable", "silent_drop", "connect_full", "connect_empty")
# The last that came, each as likely as the others.
LAST_FAULTS = (*MIDWAY, *ENDINGS, "late_report")
LAST = 0.08
# Orders of operators that only seeds with the newest calls have, and the swarms of planted bugs.
ORDERS = ("named_kill", "take_back")
# Of all seeds, those with calls that came last, orders, and ends of everything at once.
NEWEST = 0.25
# Of those in which runs make calls at all, those in which most do.
LARGE_FAMILIES = 0.2
# How late processes wake up; in half of all seeds they do so to the moment.
LATE_S = (0.0, 0.0, 0.0, 0.0003, 0.003, 0.03)
# Of those whose network may be slow, in which messages are large.
HEAVY = 0.15
# Of those in which nothing has a state that goes back with the journal.
OLD_JOURNAL = 0.5
# What ends a broker, in which what it only remembered is lost.
BROKER_ENDS = frozenset({"broker_kill", *MIDWAY, "disk_error", "power_loss", "old_journal"})
# What ends no run: after these alone nothing that ran on may run again.
GENTLE = frozenset({"broker_kill", "freeze_broker", "repeat", "pause", "resume", "press"})
MORE_GENTLE = frozenset({"second_broker", "stranger", "skew", *MIDWAY})
# What ends a run only with its process.
DEADLY = GENTLE | {"actor_kill", "late_report"}


# Numbers that may be as small as can be; those that are times.
TIMES = frozenset({"adopt_window_s", "client_timeout_s", "outcome_ttl_s", "gil_grace_s"})
SHRINKS = (
    *sorted(TIMES),
    "functions_max",
    "templates_max",
    "sticky_keys_max",
    "isolation_s",
    "environment_failures_max",
    "environment_retry_s",
    "scale_after_s",
    "scale_down_s",
    "kept_bytes_max",
)


# Of all seeds, from here on those in which sessions have no rest, and what befalls them.
RESTLESS = 0.92
RESTLESS_FAULTS = (
    "broker_kill",
    "cut",
    "flap",
    "garble",
    "half_open",
    "late_result",
    "lose",
    "machine_twice",
    "one_way",
    "refuse_send",
    "repeat",
    "truncate",
)


@dataclass(frozen=True)
class Profile:
    """The swarm of one seed."""

    machines: int = 1
    replicas: int = 2
    # How many more each machine may have on the word of the broker; whether these leave again.
    spare: int = 0
    lets_go: bool = True
    slots: int = 1
    # None: as the run times say.
    prefetch: int | None = 0
    environments_max: int = 1
    clients: int = 2
    tasks: int = 30
    # Seconds between two submits, and that a run takes.
    pause_s: float = 0.3
    run_s: float = 1.0
    # Of a frame, typically and at worst.
    delay_s: float = 0.001
    delay_max_s: float = 0.01
    # How likely a step is followed by a fault, and which.
    fault: float = 0.02
    faults: dict[str, float] = field(default_factory=dict)
    down_s: float = 1.0
    # Of something that is stopped or late: that it is for many leases.
    long: float = 0.0
    # How late a process wakes up that sleeps until its next deadline, typically; 0: to the moment.
    late_s: float = 0.0
    # Whether what has payload frames is so large that it may take longer than a lease.
    is_heavy: bool = False
    # What stood in a dead connection is lost, otherwise still read.
    lost: float = 0.5
    # A dead connection's frames come before those of the new one; otherwise they mix.
    ordered: bool = True
    # How often a death leaves no report, since its host dies too.
    clock_jumps: bool = False
    batch: float = 0.5
    # Of a task.
    at_most_once: float = 0.2
    release: float = 0.3
    # Whether some of those that released want their slots again.
    reacquire: bool = False
    fail: float = 0.1
    crash: float = 0.0
    # That its process is ended for want of memory, or that it calls exit itself.
    oom: float = 0.0
    exits: float = 0.0
    # That it takes its host and the broker along as well.
    along: float = 0.0
    hang: float = 0.1
    cancel: float = 0.1
    force: float = 0.2
    label: float = 0.2
    environment: float = 0.2
    # Of an environment that is entered.
    enter_fail: float = 0.1
    enter_crash: float = 0.0
    child: float = 0.05
    # Of a call that a run makes: that the run waits for it.
    wait: float = 0.0
    # Of a task: that it takes limits when it is assigned, or asks for some while it runs.
    limit: float = 0.0
    ask: float = 0.0
    # Of a task: that it wants a limit that nobody set, or more than there can be.
    hopeless: float = 0.0
    # Of a task: that it is tried again when it fails, or has a time to run.
    retry: float = 0.0
    timeout: float = 0.0
    # Of a task: that it requires a model, or waits only for so long; of a run: that it changes
    # the labels, above 1 how often.
    model: float = 0.0
    hasty: float = 0.0
    churn: float = 0.0
    # Of a task: that it would wait for an actor that it likes better.
    fond: float = 0.0
    # Of a task: that it takes a strict limit; half of the runs that ask for a limit ask for that.
    strict: float = 0.0
    # Of a run that asks for a limit: that it is the key at which the newest cancels the oldest.
    rival: float = 0.0
    # Of a task: that it costs more, or other, than one plain slot.
    typed: float = 0.0
    payload: float = 0.1
    # That its arguments or its result are more than is allowed.
    huge: float = 0.0
    # Of a task: that it is durable; of a durable one, that it has a key; of a submit, that some
    # client looks for a durable task instead. What a commit takes at most.
    durable: float = 0.0
    keyed: float = 0.0
    attach: float = 0.0
    # Of a submit: that some client has a dead task submitted again beside.
    redrive: float = 0.0
    commit_s: float = 0.02
    window_tasks: int = 100_000
    window_bytes: int = 2**28
    # Of a task: that it has one of two sticky keys, one of them hard.
    sticky: float = 0.0
    # Of a call to a named actor.
    named: float = 0.0
    # Of a call to one inside which several may be at once.
    grouped: float = 0.0
    # Of a task: that it is of a kind that is in `kinds` alone.
    kinds: dict[str, float] = field(default_factory=dict)
    # Which numbers of the cores are as small as can be.
    shrunk: frozenset[str] = frozenset()

    @property
    def is_gentle(self) -> bool:
        """Tell whether nothing that ran on may be run again."""
        return (GENTLE | MORE_GENTLE).issuperset(self.faults) and not (
            self.crash
            or self.oom
            or self.exits
            or self.along
            or self.enter_crash
            or self.timeout
            or self.strict
            or self.is_slow
            or self.is_hasty
        )

    @property
    def is_steady(self) -> bool:
        """Tell whether copies come only by assignments of one broker, which knows all of them.

        A run that comes back to its slot may enter one more.
        """
        return self.is_gentle and not (self.is_forgetful or self.release or self.wait)

    @property
    def is_forgetful(self) -> bool:
        """Tell whether brokers end, and what they only remembered is lost."""
        return self.along > 0 or not BROKER_ENDS.isdisjoint(self.faults)

    @property
    def may_wait(self) -> bool:
        """Tell whether runs wait for calls; not for those that a full window keeps back."""
        return self.wait > 0 and self.window_tasks > 100 and self.window_bytes > 1_000

    @property
    def is_deadly(self) -> bool:
        """Tell whether runs end only with their processes, so that executions can be counted."""
        faults = DEADLY | MORE_GENTLE
        return faults.issuperset(self.faults) and not self.is_slow and not self.is_hasty

    @property
    def is_told_of_starts(self) -> bool:
        """Tell whether a broker that its hosts know hears of each death before the next process.

        Where it reads the HELLO of the next process before the DEATH, what cannot be told burns a
        try, until the report comes. `Crashes.doubts` knows whose hosts are not there yet.
        """
        return self.is_deadly and not {"freeze_broker", "late_report"} & self.faults.keys()

    @property
    def is_slow(self) -> bool:
        """Tell whether the network alone can cost a lease or the adopt window."""
        return self.delay_max_s > 0.1 or self.clock_jumps or self.is_heavy

    @property
    def is_hasty(self) -> bool:
        """Tell whether times are so short that somebody is given up who only was away."""
        return not TIMES.isdisjoint(self.shrunk)

    @property
    def rebinds(self) -> bool:
        """Tell whether so few sticky keys are kept that one more ends the binding of another."""
        return "sticky_keys_max" in self.shrunk

    def but(self, **changes: object) -> "Profile":
        """Return the same with *changes*."""
        return replace(self, **changes)  # type: ignore[arg-type]


def draw(rng: Random) -> Profile:
    """Draw the profile of a seed."""
    style = rng.random()
    # So that whatever else a seed draws stays as it is.
    own = Random(style)
    strict = Random(style + 1.0).choice((0.0, 0.0, 0.5))
    if style < 0.15:
        faults = {name: 1.0 for name in sorted(GENTLE) if rng.random() < 0.7}
    elif style < 0.25:
        faults = {name: 1.0 for name in sorted(DEADLY - {*LAST_FAULTS}) if rng.random() < 0.7}
    else:
        faults = {name: rng.choice((0.3, 1.0, 3.0)) for name in FAULTS if rng.random() < 0.3}
    may_be_slow = style >= 0.25
    is_restless = style >= RESTLESS
    if is_restless:
        faults = dict.fromkeys(RESTLESS_FAULTS, 1.0)
    if strict and may_be_slow:
        faults["cut_off"] = 1.0
    # The first was one more fault once.
    more = ("", *MORE_FAULTS) if may_be_slow else ("", *sorted(MORE_GENTLE - {*MIDWAY}))
    faults |= {name: own.choice((0.3, 1.0, 3.0)) for name in more if own.random() < 0.25}
    faults.pop("", None)
    last = Random(style + 4.0)
    lets_go = last.random() < 0.7
    for name in LAST_FAULTS:
        is_allowed = may_be_slow or name in (MORE_GENTLE if style < 0.15 else DEADLY | MORE_GENTLE)
        if last.random() < LAST and is_allowed:
            # Where a journal takes part there is less to meet.
            faults[name] = last.choice((0.3, 1.0, 3.0)) * (5.0 if name in MIDWAY[4:] else 1.0)
    later = Random(style + 2.0)
    if may_be_slow and later.random() < LATER:
        faults["start_hangs"] = 0.5
    delay_s = rng.choice((0.0005, 0.005, 0.03))
    profile = Profile(
        machines=rng.choice((1, 1, 2)),
        replicas=rng.choice((1, 2)),
        slots=rng.choice((1, 1, 2, 3)),
        prefetch=rng.choice((0, None, 1, 3)),
        environments_max=rng.choice((1, 2)),
        clients=rng.choice((1, 2, 2)),
        tasks=rng.choice((10, 30, 60)),
        pause_s=rng.choice((0.02, 0.2, 0.5)),
        run_s=rng.choice((0.05, 0.5, 2.0)),
        delay_s=delay_s,
        delay_max_s=delay_s * 3
        if not may_be_slow or rng.random() < 0.6
        else rng.choice((0.5, 2.0)),
        fault=rng.choice((0.005, 0.02, 0.05)) + 0.1 * is_restless,
        faults=faults,
        down_s=rng.choice((0.1, 1.0, 8.0)),
        lost=rng.choice((0.0, 0.5, 1.0)),
        ordered=rng.random() < 0.8,
        clock_jumps=may_be_slow and rng.random() < 0.15,
        batch=rng.choice((0.0, 0.5, 1.0)),
        at_most_once=rng.choice((0.0, 0.3)),
        release=rng.choice((0.0, 0.4)),
        reacquire=True,
        fail=0.1,
        crash=rng.choice((0.0, 0.0, 0.1)) if may_be_slow else 0.0,
        hang=rng.choice((0.0, 0.2)),
        cancel=rng.choice((0.0, 0.05, 0.3)),
        force=rng.choice((0.0, 0.3)) if style >= 0.25 else 0.0,
        label=rng.choice((0.0, 0.4)),
        environment=rng.choice((0.0, 0.4)),
        child=rng.choice((0.0, 0.1)) if style >= 0.25 else 0.0,
        window_tasks=rng.choice((4, 100_000, 100_000)),
        window_bytes=rng.choice((64, 2**28, 2**28)),
        limit=rng.choice((0.0, 0.0, 0.5)),
        ask=rng.choice((0.0, 0.0, 0.5)),
        durable=rng.choice((0.0, 0.0, 0.4, 0.8)),
        keyed=rng.choice((0.0, 0.3)),
        attach=rng.choice((0.0, 0.2)),
        commit_s=rng.choice((0.001, 0.02, 0.5)),
        enter_fail=rng.choice((0.0, 0.1, 0.5)),
        spare=rng.choice((0, 0, 1, 2)),
        enter_crash=rng.choice((0.0, 0.0, 0.1)) if style >= 0.25 else 0.0,
        retry=rng.choice((0.0, 0.5)),
        timeout=rng.choice((0.0, 0.3)) if style >= 0.15 else 0.0,
        wait=rng.choice((0.0, 0.8)),
        sticky=rng.choice((0.0, 0.0, 0.4)),
        named=rng.choice((0.0, 0.0, 0.6)),
        model=own.choice((0.0, 0.0, 0.4)),
        hasty=own.choice((0.0, 0.0, 0.4)),
        churn=own.choice((0.0, 0.0, 0.5)),
        redrive=own.choice((0.0, 0.0, 0.3)),
        fond=own.choice((0.0, 0.0, 0.5)),
        strict=strict,
        long=own.choice((0.0, 0.0, 0.3)),
        huge=own.choice((0.0, 0.0, 0.1)),
        oom=own.choice((0.0, 0.0, 0.0, 0.05)) if may_be_slow else 0.0,
        exits=own.choice((0.0, 0.0, 0.0, 0.05)) if may_be_slow else 0.0,
        shrunk=frozenset(name for name in SHRINKS if own.random() < 0.08)
        - (frozenset() if may_be_slow else TIMES),
        grouped=own.choice((0.0, 0.0, 0.4)),
        typed=own.choice((0.0, 0.0, 0.4)),
    )
    apart = Random(style + 3.0)
    profile = profile.but(hopeless=apart.choice((0.0, 0.0, 0.0, 0.1)), lets_go=lets_go)
    profile = profile.but(rival=apart.choice((0.0, 0.0, 0.4)))
    newest = Random(style + 5.0)
    if newest.random() < NEWEST:
        kinds = {name: newest.choice((0.1, 0.3)) for name in KINDS if newest.random() < 0.4}
        orders = [name for name in ORDERS if newest.random() < 0.4]
        along = newest.choice((0.0, 0.0, 0.05))
        if may_be_slow:
            faults |= {name: newest.choice((0.3, 1.0, 3.0)) for name in orders}
        may_end_all = may_be_slow and not profile.is_deadly
        profile = profile.but(kinds=kinds, along=along * may_end_all)
    if profile.child and Random(style + 6.0).random() < LARGE_FAMILIES:
        profile = profile.but(child=0.6)
    has_named = profile.named or profile.grouped or {"namesake", "bounded"} & profile.kinds.keys()
    if may_be_slow and Random(style + 11.0).random() < HEAVY:
        profile = profile.but(is_heavy=True)
    is_plain = not (has_named or profile.redrive)
    profile = profile.but(late_s=Random(style + 10.0).choice(LATE_S))
    if may_be_slow and profile.durable and is_plain and later.random() < OLD_JOURNAL:
        faults["old_journal"] = 1.0
    return profile
