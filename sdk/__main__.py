"""`python -m sdk` and the console script `warmslot`: look at a broker from a terminal.

`warmslot broker ...` and `warmslot actor ...` start those programs with everything that follows.
Whatever a user does wrong ends with one line on standard error and status 2; what is not there, as
a broker that does not answer, with 1.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from time import monotonic
from typing import Final, NoReturn

from sdk import absent
from sdk.client import Client
from sdk.commands.dead import add_redrive_options, add_task_options, show_redrive, show_tasks
from sdk.commands.fleet import add_actors_options, add_top_options, natural, show_actors, show_top
from sdk.commands.keys import add_keys_options, show_keys
from sdk.commands.limits import add_limit_actions, show_limits
from sdk.commands.reading import seconds
from sdk.commands.replicas import add_environment_actions, show_environments
from sdk.commands.status import add_status_options, show_status
from sdk.commands.submitting import add_submit_options, show_submit
from sdk.commands.table import cell, print_json, print_maps, print_rows, say
from sdk.connection import ENDPOINT_DEFAULT, ENDPOINT_VARIABLE
from sdk.errors import WarmslotError
from sdk.futures.found import named_task
from wire.loading import raise_again
from wire.ours import module_command
from wire.printing import flush, refused
from wire.release import release
from wire.texts import brief, one_line

STATUS_FAILED: Final = 1
STATUS_BAD_OPTION: Final = 2
TIMEOUT_DEFAULT_S: Final = 5.0
# Started in the place of this process, so that the layers need not know one another.
PROGRAMS: Final = ("broker", "actor")

KEYS: Final = "keys"
KEYS_TEXT: Final = "make the broker's keys, list who may connect, let others in or no more"
LOOK_INTERVAL_S: Final = 0.05
# Of each order whether an actor in that state has obeyed.
UNHEARD: Final = ("suspect", "disconnected")
ORDERS: Final[dict[str, Callable[[str], bool]]] = {
    "pause": lambda state: state not in ("open", *UNHEARD),
    "resume": lambda state: state not in ("paused", *UNHEARD),
    "drain": lambda state: state in ("draining", "left"),
}

EPILOG: Final = """\
`warmslot broker ...` starts a broker and `warmslot actor ...` actors; each has its own --help.
WARMSLOT_BROKER says where the broker is when --broker does not, WARMSLOT_TIMEOUT how long to wait.
"""


class Usage(Exception):
    """What the user must change; the message is the whole line."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Leave the exit to `main`."""
        raise Usage(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    raise_again()
    if isinstance(sys.stdout, TextIOWrapper):
        # What the terminal has no letters for is told by their numbers, as in an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return perform(given)
        finally:
            flush()
    except OSError as error:
        return refused("warmslot", error)


def perform(given: list[str]) -> int:
    """Do what was *given* on the command line, and say in one line what is wrong with it."""
    if given and given[0] in PROGRAMS:
        os.execv(sys.executable, [*module_command(given[0]), *given[1:]])  # noqa: S606
    try:
        refuse_absent(given)
        return run(read(given))
    except (Usage, ValueError) as error:
        print(f"warmslot: {one_line(error)}", file=sys.stderr)
        return STATUS_BAD_OPTION
    except (WarmslotError, TimeoutError) as error:
        print(f"warmslot: {error}", file=sys.stderr)
        return STATUS_FAILED
    except KeyboardInterrupt:
        return 130


def read(given: Sequence[str]) -> argparse.Namespace:
    """Return the options; raise Usage for what is none."""
    options, rest = parser().parse_known_args(given)
    # Of `submit f x=1 --no-wait y=2` argparse leaves over what stands behind the option.
    if options.command == "submit" and not any(text.startswith("-") for text in rest):
        options.arguments += rest
    elif rest:
        raise Usage(f"unrecognized arguments: {' '.join(rest)}")
    return options


def refuse_absent(given: Sequence[str]) -> None:
    """Raise Usage for a command that does not exist yet."""
    for name, instead in absent.COMMANDS.items():
        if name in given and COMMANDS.keys().isdisjoint(given):
            raise Usage(f"{name} does not exist yet: {instead}")


def parser() -> Parser:
    """Describe the commands."""
    top = Parser(
        prog="warmslot",
        description="Look at a warmslot broker, its actors and its tasks; pause and drain actors.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"warmslot {release()}")
    add_common(top)
    top.set_defaults(
        broker=os.environ.get(ENDPOINT_VARIABLE) or ENDPOINT_DEFAULT,
        timeout=os.environ.get("WARMSLOT_TIMEOUT") or TIMEOUT_DEFAULT_S,
        keys=None,
        json=False,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        add_common(command)
        if name in ORDERS:
            command.add_argument(
                "actor", metavar="ACTOR", help="an actor's name, or a pattern such as 'gpu1/*'"
            )
        if name in ("explain", "cancel"):
            command.add_argument("task", metavar="TASK", help="a task's id, as `tasks` shows it")
        if name == "status":
            add_status_options(command)
        if name == "tasks":
            add_task_options(command)
        if name == "redrive":
            add_redrive_options(command)
        if name == "submit":
            add_submit_options(command)
        if name == "actors":
            add_actors_options(command)
        if name == "top":
            add_top_options(command)
        if name == "named":
            command.add_argument(
                "--kill", metavar="NAMESPACE/NAME", help="end the actor that has this name"
            )
        if name == "limits":
            add_limit_actions(command, add_common)
        if name == "environments":
            add_environment_actions(command, add_common)
        if name == "cancel":
            command.add_argument(
                "--force", action="store_true", help="end its process when it does not return"
            )
    keys = commands.add_parser(KEYS, help=KEYS_TEXT, description=KEYS_TEXT.capitalize() + ".")
    add_keys_options(keys)
    return top


def add_common(command: argparse.ArgumentParser) -> None:
    """Add what every command takes, before its name and behind it, where what is said counts."""
    command.add_argument(
        "--broker",
        metavar="ENDPOINT",
        default=argparse.SUPPRESS,
        help="where the broker is (default: $WARMSLOT_BROKER, else tcp://127.0.0.1:5555)",
    )
    command.add_argument(
        "--keys",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="the folder with this user's key, for a tcp:// broker that has keys (default:"
        " $WARMSLOT_KEYS)",
    )
    command.add_argument(
        "--timeout",
        metavar="S",
        type=seconds,
        default=argparse.SUPPRESS,
        help="how long to wait for the broker, in seconds (default: 5)",
    )
    command.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print the broker's answer as JSON",
    )


def run(options: argparse.Namespace) -> int:
    """Ask the broker and print its answer; of keys it knows nothing, they are files."""
    if options.command == KEYS:
        return show_keys(options)
    show, _ = COMMANDS[options.command]
    with Client(
        options.broker, connect_timeout=options.timeout, keys=options.keys, name="warmslot"
    ) as client:
        return show(client, options)


def show_clients(client: Client, options: argparse.Namespace) -> int:
    """Print the broker's clients, one a line."""
    return show_table(client, options, "clients")


def show_named(client: Client, options: argparse.Namespace) -> int:
    """Print one named actor a line, or end one."""
    if options.kill:
        wish = json.dumps({"actor": options.kill, "force": True})
        answer = client.query("named-kill", wish, timeout=options.timeout)
        if not print_json(answer, options) and not answer["killed"]:
            raise WarmslotError(f"no named actor is called {brief(options.kill)}")
        return 0 if answer["killed"] else STATUS_FAILED
    answer = client.query("named", timeout=options.timeout)
    if not print_json(answer, options):
        columns = ["name", "state", "actor", "generation", "pending", "running", "restarts"]
        columns += ["checkpoint", "lifetime", "environment"]
        print_rows(
            [column.upper() for column in columns],
            [[cell(row[column]) or "-" for column in columns] for row in answer["named"]],
        )
    return 0


def show_table(client: Client, options: argparse.Namespace, what: str) -> int:
    """Print a list of maps as a table with the columns of the first."""
    answer = client.query(what, timeout=options.timeout)
    if not print_json(answer, options):
        print_maps(answer.get(what, []))
    return 0


def show_explain(client: Client, options: argparse.Namespace) -> int:
    """Print where a task is, why, and what each actor lacks."""
    answer = client.explain(options.task, options.timeout)
    status = 0 if answer.get("state") != "unknown" else STATUS_FAILED
    if print_json(answer, options):
        return status
    print(f"{answer.get('state', 'unknown')}: {answer.get('reason', '')}".rstrip(": "))
    since = answer.get("actors_s", {})
    for name, missing in sorted(answer.get("actors", {}).items(), key=lambda one: natural(one[0])):
        print(f"  {name}: {missing}" + (f", for {since[name]:.1f} s" if name in since else ""))
    if "waits_s" in answer and answer.get("state") == "queued":
        waited_s, reason_s = answer["waits_s"], answer["reason_s"]
        print(f"  it has waited for {waited_s:.1f} s, for this reason for {reason_s:.1f} s")
    if "ends_s" in answer:
        print(f"  it is given up in {answer['ends_s']:.1f} s (schedule_timeout)")
    return status


def show_order(client: Client, options: argparse.Namespace) -> int:
    """Pass an order on, and print how each actor stands once it has obeyed."""
    deadline = monotonic() + options.timeout
    answer = client.query(options.command, options.actor, timeout=options.timeout)
    while True:
        known = {actor["name"]: actor["state"] for actor in client.actors(options.timeout)}
        states = {name: known.get(name, "left") for name in answer["actors"]}
        late = [name for name, state in states.items() if not ORDERS[options.command](state)]
        if not late or monotonic() >= deadline:
            break
        client.pause(LOOK_INTERVAL_S)
    states |= dict.fromkeys(answer["away"], "away, is told when it is back")
    if not print_json(answer | {"states": states}, options):
        rows = sorted(states.items(), key=lambda row: natural(row[0]))
        print_rows(["ACTOR", "STATE"], [list(row) for row in rows])
    if late:
        raise TimeoutError(f"{', '.join(late)} did not answer within {options.timeout} s")
    return 0


def show_cancel(client: Client, options: argparse.Namespace) -> int:
    """End a task as canceled, for everybody who waits for it."""
    what = "cancel-force" if options.force else "cancel"
    answer = client.query(what, named_task(options.task), timeout=options.timeout)
    if not print_json(answer, options):
        say(f"{options.task} is canceled")
    return 0


COMMANDS: Final[dict[str, tuple[Callable[[Client, argparse.Namespace], int], str]]] = {
    "status": (show_status, "the broker in numbers"),
    "actors": (show_actors, "the actors, what they offer and what they hold"),
    "top": (show_top, "the same again and again, with the rate of assignments"),
    "tasks": (show_tasks, "the tasks that the broker holds, or with --dead those that ended badly"),
    "redrive": (show_redrive, "submit dead tasks again, each once, under a new id"),
    "clients": (show_clients, "the clients that the broker knows"),
    "environments": (
        show_environments,
        "what is loaded where, what reuse has saved, what is broken; and retry",
    ),
    "named": (show_named, "the named actors, where they are and how they stand; and end one"),
    "limits": (show_limits, "what tasks share, who holds it; and set, delete, release"),
    "submit": (show_submit, "call a function, as MODULE:FUNCTION key=value, and print its result"),
    "explain": (show_explain, "why a task is where it is"),
    "pause": (show_order, "let actors take no new work; what they run goes on"),
    "resume": (show_order, "let actors take work again"),
    "drain": (show_order, "let actors finish what they run, and leave"),
    "cancel": (show_cancel, "end a task as canceled, for everybody who waits for it"),
}


if __name__ == "__main__":
    sys.exit(main())
