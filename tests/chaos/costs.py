"""What a fault cost those whom it did not hit, read from the histories of clients and tasks alone.

A run has begun and not ended, and the outcome of its call carries its token or that of another run:
from that follows who was adopted, taken over, or let in beside somebody else.
"""

from collections import defaultdict

from tests.chaos.history import BEGAN, CALLED, ENDED, FREED, HELD, OUTCOME, Broken, Entry

Token = tuple[int, ...]


def token_of(entry: Entry) -> Token:
    """Return the token of a run, or of the run that an outcome is of."""
    return tuple(entry["token"])


def since(entries: list[Entry], at: float) -> list[Entry]:
    """Return what was noted of the calls that were made after a moment."""
    keys = {e["key"] for e in entries if e["what"] == CALLED and e["at"] >= at}
    return [e for e in entries if e.get("key") in keys]


def under_way(entries: list[Entry], at: float) -> list[Entry]:
    """Return the runs that were under way at a moment: the newest of each call without outcome."""
    over = {e["key"] for e in entries if e["what"] == OUTCOME and e["at"] <= at}
    ended = {token_of(e) for e in entries if e["what"] == ENDED and e["at"] <= at}
    newest = {e["key"]: e for e in entries if e["what"] == BEGAN and e["at"] <= at}
    return [e for key, e in newest.items() if key not in over and token_of(e) not in ended]


def adopted(entries: list[Entry], at: float) -> tuple[int, int]:
    """Count the runs under way at a moment, and those of them whose outcome their calls have."""
    outcomes = {e["key"]: token_of(e) for e in entries if e["what"] == OUTCOME}
    runs = under_way(entries, at)
    return len(runs), sum(outcomes.get(run["key"]) == token_of(run) for run in runs)


def in_flight(entries: list[Entry], at: float) -> int:
    """Count the calls that were made and had no outcome at a moment."""
    called = {e["key"] for e in entries if e["what"] == CALLED and e["at"] <= at}
    return len(called - {e["key"] for e in entries if e["what"] == OUTCOME and e["at"] <= at})


def runs_again(entries: list[Entry]) -> list[tuple[Entry, Entry]]:
    """Return each run that was not the first of its call, with the one before it."""
    last: dict[str, Entry] = {}
    found = []
    for entry in entries:
        if entry["what"] == BEGAN:
            if entry["key"] in last:
                found.append((last[entry["key"]], entry))
            last[entry["key"]] = entry
    return found


def taken_over_s(entries: list[Entry], pid: int, at: float) -> list[float]:
    """Return how long after its death each run of a process had another begin in its place."""
    mine = {token_of(run) for run in under_way(entries, at) if run["pid"] == pid}
    return [new["at"] - at for old, new in runs_again(entries) if token_of(old) in mine]


def check_newest(entries: list[Entry]) -> int:
    """Check that no outcome is of a run that another one had followed; count the late results.

    Where the broker is not started again: then an outcome that was kept meanwhile goes before.
    """
    newest: dict[str, Token] = {}
    late = 0
    runs: dict[Token, str] = {}
    for entry in entries:
        match entry["what"]:
            case "began":
                newest[entry["key"]] = max(newest.get(entry["key"], ()), token_of(entry))
                runs[token_of(entry)] = entry["key"]
            case "ended":
                key = runs.get(token_of(entry))
                late += key is not None and newest[key] > token_of(entry)
            case "outcome" if entry["kind"] == "result":
                if token_of(entry) < newest.get(entry["key"], ()):
                    raise Broken(f"{entry['key']}: the result of {entry['token']} came too late")
    return late


def check_strict(entries: list[Entry]) -> int:
    """Check that nobody had a strict limit beside another, which has room for one; count them.

    One that never says that it gave it back is over with the last word of its process: if that
    comes after the next one's first, two had it.
    """
    freed = {token_of(e): e["at"] for e in entries if e["what"] == FREED}
    said: dict[int, float] = defaultdict(float)
    for entry in entries:
        said[entry["pid"]] = max(said[entry["pid"]], entry["at"])
    holds = sorted((e for e in entries if e["what"] == HELD), key=lambda e: float(e["at"]))
    for place, hold in enumerate(holds[1:], start=1):
        for former in holds[:place]:
            if freed.get(token_of(former), said[former["pid"]]) > hold["at"]:
                raise Broken(f"{hold['key']} had the strict limit beside {former['key']}")
    return len(holds)
