"""`warmslot submit MODULE:FUNCTION key=value...`: submit one call from a terminal.

A task of a client that leaves is canceled, so one that nobody waits for is durable.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from sdk.client import Client
from sdk.commands.table import say
from sdk.environment import Environment
from wire.labels import parse_label

STATUS_FAILED: Final = 1


def add_submit_options(command: argparse.ArgumentParser) -> None:
    """Add what `submit` takes."""
    command.add_argument("function", metavar="MODULE:FUNCTION", help="what to call, as module:name")
    command.add_argument(
        "arguments",
        metavar="KEY=VALUE",
        nargs="*",
        # Without a default argparse says that they are missing, too, where the function is.
        default=[],
        help="its arguments by name; a value is read as JSON, and as text where it is none",
    )
    command.add_argument(
        "--label",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a label that the actor must offer; may be repeated, each key once",
    )
    command.add_argument(
        "--option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="another option of the call, as priority=5 or schedule_timeout=60; may be repeated",
    )
    command.add_argument(
        "--no-wait",
        action="store_true",
        help="print the id of the task once the broker has it in its journal, and leave",
    )


def show_submit(client: Client, options: argparse.Namespace) -> int:
    """Submit a call, and print its result or, with --no-wait, its id."""
    function = find(options.function)
    chosen = read_pairs(options.option, "--option")
    add_labels(chosen, options.label)
    if options.no_wait:
        chosen["durable"] = True
    arguments = read_pairs(options.arguments, "argument")
    try:
        future = client.options(**chosen).submit(function, **arguments)
    except TypeError as error:
        # What is no option, or none of these.
        raise ValueError(str(error)) from error
    if options.no_wait:
        is_accepted = future.accepted(options.timeout)
        if future.done():
            # Raises what was wrong; a task that has ended already is fine.
            future.result()
        elif not is_accepted:
            raise TimeoutError(f"the broker has not taken the task within {options.timeout} s")
        say(json.dumps({"task": future.task_id}) if options.json else future.task_id)
        return 0
    try:
        result = future.result()
    except Exception as error:  # noqa: BLE001 - whatever the user's function raises.
        if error.__cause__ is not None:
            text = getattr(error.__cause__, "text", str(error.__cause__))
            sys.stderr.write(f"{text.rstrip()}\n")
        sys.stderr.write(f"warmslot: {type(error).__name__}: {error}\n")
        return STATUS_FAILED
    say(json.dumps(result, default=repr) if options.json else str(result))
    return 0


def add_labels(chosen: dict[str, Any], texts: Sequence[str]) -> None:
    """Add KEY=VALUE, each key once, to the desires that stand in *chosen*."""
    found: dict[str, Any] = {}
    for text in texts:
        key, value = parse_label(text)
        if key in found:
            among = (
                f'--option \'desired_labels={{"{key}": {{"comparator": "in", "value": [...]}}}}\''
            )
            raise ValueError(f"--label {key} stands there twice; one of several values is {among}")
        found[key] = value
    said = chosen.setdefault("desired_labels", {}) if found else None
    # What is no mapping is refused as that.
    if isinstance(said, dict):
        said.update(found)


def find(text: str) -> Any:
    """Import a function, or a method of an environment; raise ValueError where there is none."""
    module_name, separator, path = text.partition(":")
    if not separator or not module_name or not path:
        raise ValueError(f"{text!r} is not MODULE:FUNCTION, as in package.module:function")
    # A module beside the user, as `python -m` finds it, also for the console script.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"module {module_name!r} cannot be imported: {error}") from error
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ValueError(f"{module_name!r} has no {path!r}") from None
    is_environment = isinstance(found, type) and issubclass(found, Environment)
    if is_environment or not callable(found):
        raise ValueError(f"{text!r} is {found!r}, which is no function")
    return found


def read_pairs(texts: Sequence[str], what: str) -> dict[str, Any]:
    """Read NAME=VALUE, each name once; raise ValueError for what is none."""
    found: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier() or name in found:
            raise ValueError(f"{what} {text!r} is not NAME=VALUE, each name once")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
