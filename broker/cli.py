"""`python -m broker`: options and their environment variables, start, and a clean end.

Whatever a user does wrong ends with one line on standard error that names the value, and status 2.
"""

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import msgspec
import zmq

from broker.core import Broker
from broker.descriptors import raise_file_limit
from broker.disk.clocks import wall_clock_ms
from broker.disk.journal import Journal, NullJournal, SqliteJournal, Stored
from broker.disk.opening import Durability, JournalError, damaged
from broker.disk.records import StoredTasks
from broker.endpoint import EndpointError, check_free, explain_bind, read_endpoint
from broker.events.defining import HEARTBEATS_OF_STRICT, define
from broker.events.restoring import restore
from broker.facts import orders
from broker.keys import KeysError, open_keys
from broker.log import LOG_FORMATS, NoteLog, open_log
from broker.loop import Loop
from broker.memory import give_back_large, settle_garbage
from broker.settings import Settings
from broker.tasks import bindings
from wire.limits import Definition, read_definition
from wire.logs import LEVEL_DEFAULT, LEVELS
from wire.release import release
from wire.texts import brief, is_whole, one_line

ENDPOINT_DEFAULT: Final = "tcp://127.0.0.1:5555"
STATUS_BAD_OPTION: Final = 2
STATUS_FAILED: Final = 70
# The last thing that the journal has of a broker that was told to end.
ENDED: Final = ("ended",)
# With fewer it says so.
FILES_FEW: Final = 1_024
# A signal that is sent to the process and to its group, as `timeout` does, arrives twice.
TOGETHER_S: Final = 0.05

SIZE_UNITS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}

# Option, field of Settings, what it is.
TIMES: Final = (
    ("--heartbeat", "heartbeat_s", "how often each side says that it lives"),
    ("--suspect", "suspect_s", "silence after which an actor gets no more tasks (2 heartbeats)"),
    ("--lease", "lease_s", "silence after which an actor counts as lost (5 heartbeats)"),
    ("--gil-grace", "gil_grace_s", "the same while its host sees it working"),
    ("--adopt-window", "adopt_window_s", "how long a started broker takes over what runs"),
    ("--sticky-ttl", "sticky_ttl_s", "how long a key stays bound to its actor without a task"),
    ("--client-timeout", "client_timeout_s", "how long the tasks of a lost client are kept"),
    ("--outcome-ttl", "outcome_ttl_s", "how long the outcome of a durable task is kept"),
    ("--scale-after", "scale_after_s", "how long a task waits before one more actor is started"),
    ("--scale-down", "scale_down_s", "how long one that is not needed has nothing before it ends"),
    (
        "--environment-retry",
        "environment_retry_s",
        "when an environment that failed is tried again, then twice as long each time",
    ),
)

KEYS_HELP: Final = (
    "let in at tcp:// only who has a key in this folder, which `warmslot keys DIR` makes; then any"
    " address can be bound, not only 127.0.0.1"
)

EPILOG = """\
every option can be given as an environment variable: WARMSLOT_DATA_DIR for --data-dir, and
WARMSLOT_BIND with commas between several endpoints. SIGTERM, SIGINT and SIGHUP end the
broker; actors go on with what they run and clients keep their calls until it is started again.
"""


class Usage(Exception):
    """What the user must change; the message is the whole line."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        raise Usage(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a broker until a signal ends it, and return the exit status."""
    try:
        options = read_options(sys.argv[1:] if arguments is None else arguments, os.environ)
        return run(options)
    except (Usage, EndpointError, JournalError, KeysError) as error:
        print(f"broker: {one_line(error)}", file=sys.stderr)
        return STATUS_BAD_OPTION


def run(options: argparse.Namespace) -> int:
    """Start what *options* say and run it."""
    keys = open_keys(options.keys, heartbeat_s=options.settings.heartbeat_s)
    log = open_log(options.log_format, level=options.log_level)
    if (most := raise_file_limit()) < FILES_FEW:
        log.warning("few_descriptors", limit=most, hint="each connection takes one: LimitNOFILE=")
    give_back_large()
    # Nobody else may read the journal, or connect to the files of ipc endpoints.
    os.umask(0o077)
    context = zmq.Context()
    journal = make_journal(options)
    octets = options.settings.payload_bytes_max
    try:
        notes = NoteLog(log, level=options.log_level)
        loop = Loop(context, journal, notes, payload_bytes_max=octets, admission=keys)
    except zmq.ZMQError as error:
        raise Usage(f"there can be no socket: {error.strerror}") from error
    with context, contextlib.closing(loop):
        end_on_signals(loop)
        for endpoint in options.bind:
            check_free(endpoint)
        # Stored before anybody can connect: two starts never share an epoch.
        epoch = loop.start_journal()
        stored = journal.stored
        for what in stored.lost:
            log.warning("journal_lost", what=what)
        endpoints = bind_all(loop, options.bind)
        try:
            core = begin(options, epoch, stored)
        except (Usage, JournalError):
            raise
        except Exception:
            # Our bug: nobody must move a journal away for it.
            log.critical("broker_failed", exc_info=True)
            return STATUS_FAILED
        log.info(
            "broker_ready",
            endpoints=endpoints,
            epoch=epoch,
            data_dir=None if options.no_journal else str(options.data_dir),
            pid=os.getpid(),
        )
        settle_garbage()
        try:
            failure = loop.run(core)
        except Exception:
            # Our bug. What the core would decide from here on could be wrong.
            log.critical("broker_failed", exc_info=True)
            return STATUS_FAILED
        if failure:
            log.critical("journal_failed", reason=failure)
            return STATUS_FAILED
        journal.submit(core.sequence + 1, [ENDED])
    log.info("broker_stopped")
    return 0


def begin(options: argparse.Namespace, epoch: int, stored: Stored) -> Broker:
    """Return the core with what the journal has and the command line says. Raises JournalError."""
    core = Broker(options.settings, epoch=epoch, now=time.monotonic())
    core.had_earlier = bool(stored.had_earlier)
    core.records.wall_ms = wall_clock_ms() - time.monotonic() * 1000.0
    core.records.clock_ms = stored.clock_ms
    try:
        set_limits(core, stored.limits, options.limit)
        bindings.restore(core, stored.bindings, time.monotonic())
        orders.restore(core, stored.orders)
        if not options.no_journal:
            core.records.ended_well = stored.ended_well
            take_over(core, stored.tasks)
    except (msgspec.MsgspecError, UnicodeError) as error:
        # A value that nobody wrote; any other error is ours.
        raise damaged(options.data_dir / "journal.db", error) from error
    # The core has what it needs, and lets go of it in time.
    stored.tasks = StoredTasks()
    return core


def set_limits(core: Broker, stored: Mapping[str, str], given: Sequence[Definition]) -> None:
    """Define what the journal has, and what the command line says over it.

    Raises JournalError or Usage for a limit that the settings of this start do not allow.
    """
    for text in stored.values():
        definition = msgspec.json.decode(text, type=Definition)
        try:
            define(core, definition, is_stored=True)
        except ValueError as error:  # It is whole: nobody must move that journal away.
            raise JournalError(
                f"{error}; it stands in the journal: start with a longer --lease, and delete it"
                f" with `python -m sdk limits delete {definition.name}` if nobody wants it"
            ) from None
    for definition in given:
        try:
            define(core, definition)
        except ValueError as error:
            raise Usage(f"--limit {definition.name}: {error}") from None


def take_over(core: Broker, stored: StoredTasks) -> None:
    """Let *core* keep durable tasks, beginning with those that an earlier broker kept."""
    now = time.monotonic()
    core.records.has_journal = True
    restore(core, stored, now)


def bind_all(loop: Loop, endpoints: Sequence[str]) -> list[str]:
    """Bind *endpoints*, and return them in their order with their ports. Raises EndpointError."""
    bound = list(endpoints)
    # Files first, as `Loop.bind` wants it.
    for place in sorted(range(len(bound)), key=lambda place: bound[place].startswith("tcp://")):
        try:
            bound[place] = loop.bind(endpoints[place])
        except zmq.ZMQError as error:
            raise explain_bind(endpoints[place], error) from None
    return bound


def make_journal(options: argparse.Namespace) -> Journal:
    """Return the journal that *options* ask for."""
    if options.no_journal:
        return NullJournal()
    # An outcome is still there after a boot that is no older than half of what it is kept for.
    believed_s = options.settings.outcome_ttl_s / 2.0
    return SqliteJournal(options.data_dir, durability=options.durability, believed_s=believed_s)


def end_on_signals(loop: Loop) -> None:
    """Let the first SIGTERM, SIGINT or SIGHUP end *loop*, and a second one the process."""
    ending_at = math.inf

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal wants it.
        nonlocal ending_at
        now = time.monotonic()
        if now >= ending_at + TOGETHER_S:
            os._exit(128 + number)
        ending_at = min(ending_at, now)
        loop.stop()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    # What a terminal sends that is closed; whoever started us with nohup wants us to outlive it.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, end)


def read_options(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    """Return the options with `settings` put together. Raises Usage or EndpointError."""
    options = make_parser(environment).parse_args(arguments)
    if options.data_dir and options.no_journal:
        if "--no-journal" not in arguments:
            options.no_journal = False
        elif "--data-dir" in {argument.partition("=")[0] for argument in arguments}:
            raise Usage("--data-dir and --no-journal exclude each other")
    if not options.no_journal:
        options.data_dir = Path(options.data_dir or state_folder(environment))
    if options.http is not None:
        raise Usage("--http is not available yet: `python -m sdk status --json` has the figures")
    endpoints = options.bind or split(environment.get("WARMSLOT_BIND", "")) or [ENDPOINT_DEFAULT]
    options.bind = [read_endpoint(text, has_keys=bool(options.keys)) for text in endpoints]
    options.settings = make_settings(options)
    options.limit = read_limits(
        options.limit or split(environment.get("WARMSLOT_LIMIT", "").replace(" ", ","))
    )
    if any(one.strict for one in options.limit):
        settings = options.settings
        if settings.lease_s < HEARTBEATS_OF_STRICT * settings.heartbeat_s:
            raise Usage(
                f"--lease ({settings.lease_s:g} s) must be {HEARTBEATS_OF_STRICT} heartbeats at"
                " least where a limit is strict"
            )
    return options


def make_parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return the parser; what an option's environment variable says is its default."""
    parser = Parser(
        prog="python -m broker",
        description="Run the warmslot broker.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    parser.add_argument("--version", action="version", version=f"warmslot {release()}")

    def add(name: str, default: Any = None, **more: Any) -> None:
        variable = "WARMSLOT_" + name.removeprefix("--").replace("-", "_").upper()
        parser.add_argument(name, default=environment.get(variable) or default, **more)

    parser.add_argument(
        "--bind",
        action="append",
        metavar="ENDPOINT",
        help=f"tcp://HOST:PORT (* for any) or ipc://PATH; repeatable; default {ENDPOINT_DEFAULT}",
    )
    add("--data-dir", metavar="DIR", help="the journal's; default the user's state folder")
    parser.add_argument(
        "--no-journal",
        action="store_true",
        default=read_flag(environment, "WARMSLOT_NO_JOURNAL"),
        help="keep nothing on disk",
    )
    add(
        "--durability",
        Durability.POWER,
        type=choice(Durability),
        metavar="power|process",
        help="what a commit survives: the loss of power, or the end of the process; default power",
    )
    add("--keys", metavar="DIR", help=KEYS_HELP)
    add("--http", metavar="HOST:PORT", help="not available yet")
    add_log(add)
    parser.add_argument(
        "--limit",
        action="append",
        metavar="NAME=N[:OPTION]...",
        help="at most N at once of what asks for NAME; options: per-key, strict, rate=10/s,"
        " strategy=queue|round-robin|cancel-in-progress|cancel-newest; repeatable",
    )
    for name, field, what in TIMES:
        default = getattr(Settings(), field)
        add(name, type=read_seconds, metavar="S", dest=field, help=f"{what}; default {default} s")
    add_windows(add)
    return parser


def add_log(add: Any) -> None:
    """Add the options that say which lines are written, and how."""
    add(
        "--log-format",
        "console",
        type=choice(LOG_FORMATS),
        metavar="console|json",
        help="on standard error; default console",
    )
    add(
        "--log-level",
        LEVEL_DEFAULT,
        type=lambda text: choice(LEVELS)(text.lower()),
        metavar="|".join(LEVELS),
        help=f"the least that is written; default {LEVEL_DEFAULT}",
    )


def add_windows(add: Any) -> None:
    """Add the options that bound what a client may have here."""
    defaults = Settings()
    add(
        "--payload-bytes-max",
        type=read_size,
        metavar="N",
        help=f"octets of one call or result; default {defaults.payload_bytes_max}, also as 256M",
    )
    add(
        "--window-tasks",
        type=read_count,
        metavar="N",
        help=f"tasks that one client may have here; default {defaults.window_tasks}",
    )
    add(
        "--window-bytes",
        type=read_size,
        metavar="N",
        help=f"octets of calls that one client may have here; default {defaults.window_bytes}",
    )
    add(
        "--journal-bytes-max",
        type=read_size,
        metavar="N",
        help="octets of durable tasks, outcomes and code, in memory and in the journal; default"
        f" {defaults.journal_bytes_max}",
    )
    add(
        "--dead-tasks-max",
        type=read_number,
        metavar="N",
        help="tasks that ended badly and are kept with their calls, the newest ones; default"
        f" {defaults.dead_tasks_max}, 0 for none",
    )
    add(
        "--dead-bytes-max",
        type=read_size,
        metavar="N",
        help=f"octets that these take; default {defaults.dead_bytes_max}",
    )


def make_settings(options: argparse.Namespace) -> Settings:
    """Return the settings; what is not given follows the heartbeat. Raises Usage."""
    defaults = Settings()
    names = [field for _, field, _ in TIMES]
    names += ["payload_bytes_max", "window_tasks", "window_bytes", "journal_bytes_max"]
    names += ["dead_tasks_max", "dead_bytes_max"]
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if "heartbeat_s" in given:
        factor = given["heartbeat_s"] / defaults.heartbeat_s
        given.setdefault("suspect_s", defaults.suspect_s * factor)
        given.setdefault("lease_s", defaults.lease_s * factor)
    given.setdefault("gil_grace_s", max(defaults.gil_grace_s, given.get("lease_s", 0.0)))
    settings = Settings(**given)
    rising = [
        ("--heartbeat", settings.heartbeat_s),
        ("--suspect", settings.suspect_s),
        ("--lease", settings.lease_s),
        ("--gil-grace", settings.gil_grace_s),
    ]
    for (lower, low), (upper, high) in pairwise(rising):
        if low >= high and not (upper == "--gil-grace" and low == high):
            raise Usage(f"{upper} ({high:g} s) must be longer than {lower} ({low:g} s)")
    return settings


def read_limits(texts: Sequence[str]) -> list[Definition]:
    """Return what `--limit` defines. Raises Usage."""
    try:
        found = [read_definition(text) for text in texts]
    except ValueError as error:
        raise Usage(str(error)) from None
    if len({definition.name for definition in found}) < len(found):
        raise Usage("--limit names a limit twice")
    return found


def state_folder(environment: Mapping[str, str]) -> Path:
    """Return where the journal is kept when nobody says so. Raises Usage."""
    try:
        folder = Path(environment.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    except RuntimeError:
        raise Usage("no home folder for the journal: say --data-dir, or --no-journal") from None
    return folder / "warmslot"


def split(text: str) -> list[str]:
    """Return what stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def read_flag(environment: Mapping[str, str], variable: str) -> bool:
    """Return the flag in *variable*. Raises Usage."""
    text = environment.get(variable, "").lower()
    if text not in ("", "0", "1", "false", "true", "no", "yes"):
        raise Usage(f"{variable}={brief(text)} is not yes or no")
    return text in ("1", "true", "yes")


def choice(allowed: Any) -> Any:
    """Return a reader for one of *allowed*."""

    def read(text: str) -> Any:
        for value in allowed:
            if text == value:
                return value
        raise argparse.ArgumentTypeError(f"{brief(text)} is not {' or '.join(allowed)}")

    return read


def read_seconds(text: str) -> float:
    """Read a time above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a number of seconds above 0")
    return seconds


def read_count(text: str) -> int:
    """Read a number above 0."""
    if not (is_whole(text) and 0 < int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a number above 0")
    return int(text)


def read_number(text: str) -> int:
    """Read a number that may be 0."""
    try:
        return 0 if text == "0" else read_count(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a number of at least 0") from None


def read_size(text: str) -> int:
    """Read octets, with an optional K, M or G."""
    number = text.lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:] in SIZE_UNITS else ""
    try:
        return read_count(number.removesuffix(unit) if unit else number) * SIZE_UNITS[unit]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{brief(text)} is not a number of octets, as in 256M"
        ) from None
