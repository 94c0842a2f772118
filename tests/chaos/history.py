"""What clients and tasks write down themselves, and what must be true of it.

Nothing else is believed: not the broker's word, not a counter. A client notes each call before it
submits it and each outcome when it has it; a task notes its token when it begins and when it ends.
"""

import json
import os
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

CALLED, OUTCOME, BEGAN, ENDED = "called", "outcome", "began", "ended"
# A run has the strict limit, and gives it back.
HELD, FREED = "held", "freed"
# The id of a durable call, and that the journal has it: from then on it is not lost, whoever dies.
NAMED, ACCEPTED = "named", "accepted"
# Outcomes that say that nobody knows, or that it was given up: no run has to be behind them.
DOUBTS = frozenset({"OutcomeUnknown", "PoisonTask", "TaskCanceled"})
# The journal cannot be written: a durable call was not taken, and must not have run.
REFUSED = "NotDurable"


class Broken(AssertionError):
    """The histories cannot be those of a system that keeps its promise."""


def note(path: str, **entry: Any) -> None:
    """Append one entry; one that is cut off, as its writer was killed, spoils no other's line."""
    line = "\n" + json.dumps({"at": time.monotonic(), "pid": os.getpid(), **entry}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def read(path: Path) -> list[Entry]:
    """Return the entries in the order in which they were written, as far as they are whole."""
    return parse(path.read_bytes())[0] if path.exists() else []


def parse(text: bytes) -> tuple[list[Entry], int]:
    """Return the whole entries, and how many octets need not be looked at again.

    What stands behind the last line is being written; a line without its end never was.
    """
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line.endswith(b"}")], len(whole)


def check(path: Path, *, killed_clients: frozenset[str] = frozenset()) -> Counter[str]:
    """Hold all entries against the promise; return what happened, raise Broken."""
    entries = read(path)
    called = {e["key"]: e for e in entries if e["what"] == CALLED}
    outcomes: dict[str, list[Entry]] = defaultdict(list)
    runs: dict[str, dict[tuple[int, ...], Entry]] = defaultdict(dict)
    ends: dict[tuple[int, ...], Entry] = {}
    for entry in entries:
        token = tuple(entry.get("token", ()))
        match entry["what"]:
            case "outcome":
                outcomes[entry["key"]].append(entry)
            case "began":
                if token in runs[entry["key"]]:
                    raise Broken(f"{entry['key']}: token {token} began twice")
                runs[entry["key"]][token] = entry
            case "ended":
                ends[token] = entry
    accepted = {e["key"] for e in entries if e["what"] == ACCEPTED}
    found: Counter[str] = Counter(accepted=len(accepted)) if accepted else Counter()
    for key, call in called.items():
        mine = outcomes.pop(key, [])
        if len(mine) > 1:
            raise Broken(f"{key} has {len(mine)} outcomes: {mine}")
        if not mine and call["client"] not in killed_clients:
            raise Broken(f"{key} is lost: it was called and has no outcome")
        if key in accepted:
            check_accepted(key, mine)
        found["runs"] += len(runs[key])
        found["again"] += max(0, len(runs[key]) - 1)
        if call["once"] and len(runs[key]) > 1:
            raise Broken(f"{key} is at_most_once and ran {len(runs[key])} times")
        if mine:
            check_outcome(call, mine[0], runs[key], ends)
            found[mine[0]["kind"]] += 1
        else:
            found["client killed"] += 1
    if outcomes:
        raise Broken(f"outcomes of calls that nobody made: {sorted(outcomes)}")
    unknown = sorted(runs.keys() - called.keys())
    if unknown:
        raise Broken(f"runs of calls that nobody made: {unknown}")
    return found


def check_accepted(key: str, outcomes: list[Entry]) -> None:
    """Check that what was accepted was kept."""
    if not outcomes:
        raise Broken(f"{key} is lost: it was accepted and has no outcome")
    if outcomes[0]["kind"] == REFUSED:
        raise Broken(f"{key} is refused, and it was accepted")


def check_outcome(
    call: Entry,
    outcome: Entry,
    runs: dict[tuple[int, ...], Entry],
    ends: dict[tuple[int, ...], Entry],
) -> None:
    """Check that a run of the call made its outcome, or that nobody can know."""
    key, kind = call["key"], outcome["kind"]
    # Whoever was killed may have taken it before: then there was one.
    was_taken = outcome.get("was_taken") and any(token in ends for token in runs)
    if kind == "OutcomeUnknown" and not (call["once"] or was_taken):
        raise Broken(f"{key} may run again, and nobody is said to know its outcome")
    if kind in DOUBTS:
        return
    if kind == REFUSED:
        if runs:
            raise Broken(f"{key} is refused, and it ran")
        return
    token = tuple(outcome["token"])
    if token not in runs:
        raise Broken(f"{key}: no run with token {token} began, and its outcome is here")
    if kind == "result" and token not in ends:
        raise Broken(f"{key}: the run with token {token} never ended, and its result is here")
