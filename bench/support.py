"""What every benchmark here needs: rounds, child processes that always end, endpoints and a table.

The rule: whatever a benchmark starts is gone when it ends, also after an exception, Ctrl-C or
SIGTERM, and a benchmark that hangs is ended by its own deadline.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Self

import zmq

PROJECT = Path(__file__).resolve().parent.parent

TRANSPORTS = {"tcp": ["tcp"], "ipc": ["ipc"], "both": ["tcp", "ipc"]}

# A child is asked to end, and killed when it has not after this.
child_end_timeout_s = 5.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one round of one path gave."""

    rtt_p50_us: float
    rtt_p99_us: float
    per_s: float

    @classmethod
    def of(cls, round_trips_s: Sequence[float], *, per_s: float) -> "Figures":
        return cls(
            rtt_p50_us=percentile(round_trips_s, 0.50) * 1e6,
            rtt_p99_us=percentile(round_trips_s, 0.99) * 1e6,
            per_s=per_s,
        )


# Measures one round of a path, given the transport and the number of round trips.
Measure = Callable[[str, int], Figures]


def arguments(description: str) -> argparse.ArgumentParser:
    """Return the parser of the options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=positive, default=5, help="default 5")
    parser.add_argument("--count", type=positive, default=2000, help="round trips; default 2000")
    parser.add_argument("--transport", choices=TRANSPORTS, default="both", help="default both")
    parser.add_argument("--json", metavar="FILE", help="write every round's figures to FILE")
    parser.add_argument(
        "--timeout-s", type=positive, default=600, help="end the whole run after this; default 600"
    )
    return parser


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def run_rounds(paths: Mapping[str, Measure], options: argparse.Namespace) -> int:
    """Measure the *paths* in turn, round by round, and print each beside the first.

    Return the exit status.
    """
    print(f"{machine()}; {options.rounds} rounds, {options.count} round trips each", flush=True)
    figures: dict[tuple[str, str], list[Figures]] = {}
    try:
        with bounded(options.timeout_s):
            for round_number in range(1, options.rounds + 1):
                print(f"round {round_number}", file=sys.stderr, flush=True)
                for transport in TRANSPORTS[options.transport]:
                    for path, measure in paths.items():
                        figures.setdefault((transport, path), []).append(
                            measure(transport, options.count)
                        )
    except RuntimeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    print(comparison(figures, baseline=next(iter(paths))))
    if options.json:
        write_json(options.json, figures)
    return 0


def comparison(figures: Mapping[tuple[str, str], Sequence[Figures]], *, baseline: str) -> str:
    """Format medians with their range, and ratios to *baseline* in the same round."""
    rows = []
    for (transport, path), rounds in figures.items():
        base = figures[transport, baseline]
        cells = [transport, path]
        for field in fields(Figures):
            values = [getattr(each, field.name) for each in rounds]
            cells.append(spread(values))
            if path == baseline:
                cells.append("1")
            else:
                bases = [getattr(each, field.name) for each in base]
                ratios = [value / base for value, base in zip(values, bases, strict=True)]
                cells.append(spread(ratios, digits=2))
        rows.append(cells)
    titles = ["", "path", "rtt p50 us", "ratio", "p99 us", "ratio", "per second", "ratio"]
    return table(titles, rows)


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the sample below which *share* (0 to 1) of *samples* lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Format *values*, one a round, as `median (min-max)`."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{median:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format *rows* as a markdown table, aligned so that it reads well in a terminal too."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = [titles, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def machine() -> str:
    """Describe in one line what the figures depend on; nothing that tells which machine it is."""
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"pyzmq {zmq.__version__} (libzmq {zmq.zmq_version()})"
    )


def write_json(path: str, figures: Mapping[tuple[str, str], Sequence[Figures]]) -> None:
    document = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "figures": [
            {"transport": transport, "path": path, "rounds": [asdict(each) for each in rounds]}
            for (transport, path), rounds in figures.items()
        ],
    }
    Path(path).write_text(json.dumps(document, indent=1) + "\n")


class Workspace:
    """Own a temporary folder and child processes; both are gone when the `with` ends."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="warmslot-bench-"))
        self._children: list[subprocess.Popen[bytes]] = []
        self._endpoints = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            while self._children:
                end(self._children.pop())
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """Return the folder that goes away with this."""
        return self._folder

    def start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start `python -m MODULE` with *arguments* in the project's folder."""
        with (self._folder / f"{len(self._children)}.log").open("w") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=PROJECT,
                # A child that reads it learns that we are gone.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for us alone; what the child starts can be ended with it.
                start_new_session=True,
            )
        self._children.append(child)
        return child

    def kill(self, child: "subprocess.Popen[bytes]") -> None:
        """End *child* with SIGKILL, as a crash would."""
        self._children.remove(child)
        child.kill()
        end(child)

    def endpoint(self, transport: str) -> str:
        """Return an endpoint on which nobody listens: "tcp" on loopback, "ipc" in the folder."""
        if transport == "ipc":
            self._endpoints += 1
            return f"ipc://{self._folder}/{self._endpoints}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{free.getsockname()[1]}"

    def logs(self) -> str:
        """Return what the children have printed."""
        texts = [path.read_text().strip() for path in sorted(self._folder.glob("*.log"))]
        return "\n".join(filter(None, texts)) or "its processes printed nothing"


def end(child: "subprocess.Popen[bytes]") -> None:
    """End *child*, politely first, and whatever is left of its process group."""
    child.terminate()
    try:
        child.wait(child_end_timeout_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert child.stdin is not None, "every child has a pipe"
        child.stdin.close()


@contextlib.contextmanager
def bounded(seconds_max: float) -> Iterator[None]:
    """Leave the block by SystemExit after *seconds_max* or at SIGTERM: every `with` ends."""

    def leave(number: int, _frame: FrameType | None) -> None:
        why = f"not done in {seconds_max} s" if number == signal.SIGALRM else "terminated"
        raise SystemExit(f"bench: {why}")

    before = {number: signal.signal(number, leave) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.setitimer(signal.ITIMER_REAL, seconds_max)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
