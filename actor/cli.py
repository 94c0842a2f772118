"""The command line of the host: `python -m actor`.

Each option is also an environment variable, WARMSLOT_ and its name. What is wrong is said in one
line, with exit status 2.
"""

import argparse
import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from actor.granting.labels import add_value
from actor.machine.builtin import builtin_labels
from actor.machine.names import HeldName, NameTaken, hold_name
from actor.processes.forking import FORKSERVER, SPAWN, START_METHODS, start_fork_server
from actor.processes.surroundings import (
    check_environments,
    check_folder,
    read_paths,
    read_variables,
)
from actor.settings import ENDPOINT_DEFAULT, SLOT, HostSettings
from actor.times import add_times, read_times
from actor.values import AUTO, SLOTS_MAX, Amount, OneOf, Whole, ahead, endpoint, read, replicas
from wire.keys import own_keys
from wire.labels import Labels, built_in, check_own, is_name, parse_label
from wire.limits import HOST_PREFIX, check_amounts
from wire.logs import LEVEL_DEFAULT, LEVELS
from wire.ours import here
from wire.release import release
from wire.texts import DIGITS_MAX, brief, cut, is_whole, one_line

EXIT_BAD_OPTION: Final = 2
# Where memory is what bounds them.
MEMORY_BOUND_MAX: Final = 1_000
LOG_FORMATS: Final = ("console", "json")
# What a host has open by itself, also while it starts actors, and what for each of them.
DESCRIPTORS_OF_HOST: Final = 40
DESCRIPTORS_OF_ACTOR: Final = 3
SPIN_VARIABLE: Final = "WARMSLOT_SPIN_US"
# A label of one actor: its index, a colon, and the label.
OF_ACTOR: Final = re.compile(r"(\d{1,6}):(.+)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Say what was wrong and end."""
        sys.stderr.write(f"actor: {one_line(message)} (see --help)\n")
        sys.exit(EXIT_BAD_OPTION)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a host until it has left; return the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        inherited = split_environment("WARMSLOT_LABEL")
        labels_of = read_labels(options.label, inherited, replicas=options.replicas[1])
        slots = [*os.environ.get("WARMSLOT_SLOT", "").split(), *options.slot]
        typed, units = read_slot_types(slots, replicas=options.replicas[1])
        limits = read_limits([*split_environment("WARMSLOT_LIMIT"), *options.limit])
        started_with = read_surroundings(options)
        check_descriptors(options.replicas[1])
        check_spin()
        name = hold(options.name, options.broker)
    except (ValueError, NameTaken) as error:
        parser.error(str(error))
    try:
        release_at_end(name)
        known = builtin_labels(name.name)
        check_keys(parser, labels_of, known)
        # It loads while the rest of this process does.
        missed: list[str] = []
        server = start_fork_server(
            options.start_method, started_with["variables"], options.start_timeout, missed
        )
        from actor.host import Host  # noqa: PLC0415
        from actor.logs import configure_logs, warn  # noqa: PLC0415

        configure_logs(options.log_format, options.log_level)
        for reason in missed:
            warn("no_forkserver", reason=reason, hint="each actor starts from nothing")
        is_alike = all(labels == labels_of[0] for labels in labels_of)
        settings = HostSettings(
            name=name.name,
            broker=options.broker,
            labels={**known, **(labels_of[0] if is_alike else {})},
            labels_of={} if is_alike else dict(enumerate(labels_of)),
            slots=options.slots,
            typed=typed,
            limits=limits,
            units=units,
            released_max=options.released_max,
            replicas=options.replicas[0],
            replicas_max=options.replicas[1],
            prefetch=options.prefetch,
            environments_max=read_environments_max(options),
            environments_memory_mb=options.environments_memory_mb,
            memory_high=options.memory_high,
            log_format=options.log_format,
            log_level=options.log_level,
            **read_times(options),
            **started_with,
        )
        try:
            host = Host(settings, server)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        return host.run()
    finally:
        name.release()


def release_at_end(name: HeldName) -> None:
    """Let a signal that ends this process while it still loads leave no file behind."""

    def end(number: int, _: object) -> None:
        name.release()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def hold(wanted: str | None, broker: str) -> HeldName:
    """Hold a name. Raises ValueError when it cannot be one or there is no place for its lock."""
    try:
        return hold_name(wanted, broker)
    except OSError as error:
        raise ValueError(
            f"the name cannot be locked: {error}; TMPDIR names another folder for that"
        ) from None


def check_descriptors(replicas: int) -> None:
    """Raise ValueError where the host could not hold all its actors and a connection as well."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_OF_HOST + DESCRIPTORS_OF_ACTOR * replicas
    if most != resource.RLIM_INFINITY and most < wanted:
        raise ValueError(
            f"--replicas {replicas} takes {wanted} file descriptors, and there may be {most}:"
            " raise `ulimit -n`, or LimitNOFILE= of systemd"
        )


def check_spin() -> None:
    """Raise ValueError for what actors could say is wrong with a variable only in their log."""
    if os.environ.get(SPIN_VARIABLE):
        from sdk.reading.wakeup import spin_s  # noqa: PLC0415 - what a host has no other use for.

        _ = spin_s()


def check_keys(parser: Parser, labels_of: Sequence[Labels], known: Labels) -> None:
    """End with a line when somebody gives a label that says what the actor is."""
    for key in dict.fromkeys(key for own in labels_of for key in own):
        if key in known or key == "name":
            parser.error(built_in(key))


def read_keys(folder: str, broker: str) -> str:
    """Return where the keys for *broker* are, for processes in any folder. Raises ValueError."""
    own = own_keys(folder, broker)
    return os.path.abspath(own.folder) if own is not None else ""  # noqa: PTH100


def make_parser() -> Parser:
    """Return the parser with every option and its default."""
    parser = Parser(
        prog="python -m actor",
        description="Run actors on this machine: processes that keep models loaded and run tasks.",
        epilog="Each option is also an environment variable: WARMSLOT_BROKER, WARMSLOT_SLOTS,"
        " WARMSLOT_LABEL='memory=512 zone=eu', ... SIGTERM, SIGHUP and Ctrl-C let the actors"
        " finish what they run; a second one ends them at once.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"warmslot {release()}")
    add_place(parser)
    add_capacity(parser)
    add_surroundings(parser)
    add_times(parser)
    parser.add_argument(
        "--log-format",
        metavar="|".join(LOG_FORMATS),
        type=OneOf(LOG_FORMATS),
        default=read("LOG_FORMAT", "console"),
        help="how events are written to stderr (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level",
        metavar="|".join(LEVELS),
        type=lambda text: OneOf(tuple(LEVELS))(text.lower()),
        default=read("LOG_LEVEL", LEVEL_DEFAULT),
        help="the least that is written there, of tasks' own `task.log` as well (default:"
        " %(default)s)",
    )
    return parser


def add_place(parser: Parser) -> None:
    """Add what says where the actors are and what they offer."""
    parser.add_argument(
        "--broker",
        metavar="ENDPOINT",
        type=endpoint,
        default=read("BROKER", ENDPOINT_DEFAULT),
        help="where the broker is (default: %(default)s)",
    )
    parser.add_argument(
        "--keys",
        metavar="DIR",
        default=read("KEYS", ""),
        help="the folder with this machine's key, for a tcp:// broker that has keys; `warmslot keys"
        " DIR add NAME actor` makes it beside the broker",
    )
    parser.add_argument(
        "--name",
        metavar="HOST",
        default=read("NAME", None),
        help="the name of this host; its actors are HOST/0, HOST/1, ... (default: the machine's)",
    )
    parser.add_argument(
        "--label",
        metavar="[N:]KEY=VALUE",
        action="append",
        default=[],
        help="what the actors offer, to be desired by tasks; a value is read as bool, int, float,"
        " then string, and KEY=str:512 forces a string; may be repeated, for one KEY as well. With"
        " --replicas, 0:gpu=a is for the first actor alone, and {index} in a value is its number",
    )


def add_surroundings(parser: Parser) -> None:
    """Add which environments actors hold, and what their processes start with."""
    parser.add_argument(
        "--environment",
        metavar="MODULE:CLASS",
        action="append",
        default=[],
        help="enter this environment at the start, before a task needs it; may be repeated",
    )
    parser.add_argument(
        "--environments-max",
        metavar="N",
        type=Whole(1, SLOTS_MAX),
        default=read("ENVIRONMENTS_MAX", None),
        help="environments that stay loaded in one actor (default: as many as --environment names,"
        f" at least 1; {MEMORY_BOUND_MAX} with --environments-memory-mb)",
    )
    parser.add_argument(
        "--environments-memory-mb",
        metavar="MIB",
        type=Amount("a number of MiB above 0", 1e12),
        default=read("ENVIRONMENTS_MEMORY_MB", None),
        help="over so much memory of its process an actor gives up the environment that saves the"
        " least, one a second, while it has more than one (default: no bound)",
    )
    parser.add_argument(
        "--env",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an environment variable of the actor processes; {index} in it is the actor's number,"
        " as in CUDA_VISIBLE_DEVICES={index}; may be repeated",
    )
    parser.add_argument(
        "--chdir",
        metavar="FOLDER",
        default=read("CHDIR", ""),
        help="where the actor processes work, also with {index} (default: here)",
    )
    parser.add_argument(
        "--python-path",
        metavar="FOLDER",
        action="append",
        default=[],
        help="where the actor processes look for modules first, also with {index}; may be repeated",
    )
    parser.add_argument(
        "--start-method",
        metavar="|".join(START_METHODS),
        type=OneOf(START_METHODS),
        default=read("START_METHOD", None),
        help="fork each actor from a process that has loaded what all of them run, which is ten"
        " times as fast, or start it from nothing, as is done anyway where an --env is read when"
        f" Python starts, as PYTHONPATH (default: {FORKSERVER} on Linux, else {SPAWN})",
    )


def read_surroundings(options: argparse.Namespace) -> dict[str, Any]:
    """Read what the actor processes start with; raise ValueError for what cannot be."""
    replicas = options.replicas[1]
    variables = [*os.environ.get("WARMSLOT_ENV", "").split(), *options.env]
    paths = read_paths(
        [*options.python_path, os.environ.get("WARMSLOT_PYTHON_PATH", "")], replicas=replicas
    )
    if here() and not os.environ.get("PYTHONSAFEPATH"):
        # As of any program that is started by `python -m`, whichever way this one was.
        paths.append(here())
    environments = [*split_environment("WARMSLOT_ENVIRONMENT"), *options.environment]
    check_environments(environments, paths=paths)
    if options.chdir:
        check_folder("chdir", options.chdir, replicas=replicas)
    most = options.environments_max
    if most is not None and most < len(environments):
        raise ValueError(f"{len(environments)} environments, --environments-max is {most}")
    return {
        "keys": read_keys(options.keys, options.broker),
        "variables": read_variables(variables),
        "folder": os.path.abspath(options.chdir) if options.chdir else "",  # noqa: PTH100
        "python_path": paths,
        "environments": environments,
    }


def read_environments_max(options: argparse.Namespace) -> int:
    """Return how many environments may stay loaded in one actor."""
    if options.environments_max is not None:
        return int(options.environments_max)
    if options.environments_memory_mb is not None:
        return MEMORY_BOUND_MAX
    return max(1, len([*split_environment("WARMSLOT_ENVIRONMENT"), *options.environment]))


def add_capacity(parser: Parser) -> None:
    """Add what says how much runs at once."""
    for name, what, lowest, default in (
        ("slots", "tasks that run at once in one actor", 1, 1),
        ("released-max", "tasks of one actor that run on without their slots", 0, 100),
    ):
        parser.add_argument(
            f"--{name}",
            metavar="N",
            type=Whole(lowest, SLOTS_MAX),
            default=read(name.replace("-", "_").upper(), default),
            help=f"{what} (default: %(default)s)",
        )
    parser.add_argument(
        "--replicas",
        metavar="N|MIN:MAX",
        type=replicas,
        default=read("REPLICAS", "1"),
        help="actor processes on this machine; with MIN:MAX the broker has more started while tasks"
        " wait for one, and lets those go that have nothing to do (default: %(default)s)",
    )
    parser.add_argument(
        "--prefetch",
        metavar="N|auto",
        type=ahead,
        default=read("PREFETCH", AUTO),
        help="short tasks that may wait in an actor beyond its slots, to save each a round trip;"
        " auto: as many as help, none while runs are long (default: %(default)s)",
    )
    parser.add_argument(
        "--memory-high",
        metavar="SHARE|off",
        type=Amount("a share above 0 and up to 1", 1.0, may_be_off=True),
        default=read("MEMORY_HIGH", "0.95"),
        help="over this share of the memory of the machine, or of the cgroup where that is less,"
        " actors take no new work until some is free again (default: %(default)s)",
    )
    parser.add_argument(
        "--slot",
        metavar="TYPE=N",
        action="append",
        default=[],
        help="slots of another type, as gpu=1 or io=16, which a task asks for by"
        ' slots={"gpu": 1}; gpu=0,1 gives each a name, which the task finds in slot_ids; may be'
        " repeated",
    )
    parser.add_argument(
        "--limit",
        metavar="NAME=N",
        action="append",
        default=[],
        help="how much this machine has of something that all of its actors share, as gpu=2; a"
        ' task takes of it by limits={"host:gpu": 1} or with task.limit("host:gpu"); may be'
        " repeated",
    )


def read_limits(texts: Sequence[str]) -> dict[str, int]:
    """Read NAME=N, what this machine has of something that its actors share."""
    limits: dict[str, int] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if name.startswith(HOST_PREFIX):
            raise ValueError(f"limit {brief(text)}: say it without {HOST_PREFIX}, as in gpu=2")
        if ":" in value:
            raise ValueError(
                f"limit {brief(text)}: what a machine has takes no options; per-key, strict, rate="
                " and strategy= are for limits of the broker"
            )
        if not separator or not is_whole(value) or name in limits:
            raise ValueError(f"limit {brief(text)} is not NAME=N, each name once, as in gpu=2")
        limits[name] = int(value)
    check_amounts({f"{HOST_PREFIX}{name}": amount for name, amount in limits.items()})
    return limits


def read_slot_types(
    texts: Sequence[str], *, replicas: int
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Read TYPE=N and TYPE=NAME,NAME: how many of each type, and the names where there are some."""
    typed: dict[str, int] = {}
    units: dict[str, list[str]] = {}
    for text in texts:
        kind, separator, value = text.partition("=")
        if not separator or not is_name(kind) or kind in typed:
            raise ValueError(f"slot {brief(text)} is not TYPE=N or TYPE=NAME,NAME, each type once")
        if kind == SLOT:
            raise ValueError(f"slot {brief(text)}: the number of plain slots is --slots")
        if is_whole(value):
            typed[kind] = int(value)
        elif is_number(value):
            called = f"; one that is called {value} is {text}," if len(value) < DIGITS_MAX else ""
            what = "too much" if value.isdigit() else "no whole number"
            raise ValueError(f"slot {brief(text)}: {cut(value)} is {what}{called}")
        else:
            units[kind] = [name.strip() for name in value.removesuffix(",").split(",")]
            typed[kind] = len(units[kind])
            if not all(units[kind]):
                raise ValueError(f"slot {brief(text)} has a name that is empty")
            if len(set(units[kind])) < len(units[kind]):
                raise ValueError(f"slot {brief(text)} has a name twice")
            if replicas > 1:
                raise ValueError(
                    f"slot {brief(text)} has names, which only one actor can own: start a host for"
                    " each part instead of --replicas"
                )
        if not 1 <= typed[kind] <= SLOTS_MAX:
            named = f"; one that is called {value} is {text}," if is_whole(value) else ""
            raise ValueError(f"slot {brief(text)}: {typed[kind]} is not in 1 to {SLOTS_MAX}{named}")
    return typed, units


def is_number(text: str) -> bool:
    """Tell whether *text* reads as one, as 2.5, -3 and 1e3 do."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def split_environment(name: str) -> list[str]:
    """Return the values in an environment variable, set apart by blanks or commas."""
    return os.environ.get(name, "").replace(",", " ").split()


def read_labels(typed: Sequence[str], inherited: Sequence[str], *, replicas: int) -> list[Labels]:
    """Return what each actor offers: what is typed, over what is inherited.

    A key that one source names more than once has all these values. `0:gpu=a` is for actor 0 alone,
    over what all have; `{index}` in a value is the actor's index. Raises ValueError for a bad one.
    """
    labels_of: list[Labels] = []
    for index in range(replicas):
        labels: Labels = {}
        for source in (inherited, typed):
            shared: Labels = {}
            own: Labels = {}
            for text in source:
                match = OF_ACTOR.fullmatch(text)
                key, value = parse_label(
                    (match[2] if match else text).replace("{index}", str(index))
                )
                if match and int(match[1]) >= replicas:
                    raise ValueError(
                        f"label {text!r} is for actor {match[1]}, but with --replicas {replicas}"
                        f" there is none beyond {replicas - 1}"
                    )
                if match is None:
                    shared[key] = add_value(shared.get(key), value)
                elif int(match[1]) == index:
                    own[key] = add_value(own.get(key), value)
            labels |= shared | own
        labels_of.append(check_own(labels, of_machine=True))
    return labels_of
