"""A broker and hosts as real processes that a test kills, stops and starts again."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sdk import Client

ROOT = Path(__file__).resolve().parents[2]
# A machine that is busy with other things starts a process in half a minute.
DEADLINE_S = 60.0
LOOK_INTERVAL_S = 0.01
# What a broker, and a host, are told in tests of what comes after their waits: those are as short
# as can be, while nobody counts as lost sooner than otherwise.
HEARTBEAT_S = 0.2
HASTY_BROKER = (
    *("--heartbeat", str(HEARTBEAT_S), "--suspect", "2", "--lease", "5"),
    *("--environment-retry", "0.1", "--scale-down", "1"),
)
HASTY_HOST = ("--force-grace", "0.5", "--restart-max", "0.2")


def wait_until(question: Callable[[], Any], timeout_s: float = DEADLINE_S, story=str) -> Any:
    """Return the answer of *question* as soon as it is true; fail with *story* when it never is."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited {timeout_s} s for nothing{story()}"
        select.select([], [], [], LOOK_INTERVAL_S)


def environment(**variables: str) -> dict[str, str]:
    """Return our own environment, in which the packages are found from any folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WARMSLOT_")}
    return kept | {"PYTHONPATH": str(ROOT)} | variables


def ended_at_once(
    *command: str | Path, cwd: Path = ROOT, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run what ends by itself, by default from the project's folder, and return how."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


class Deployment:
    """One broker on one endpoint, its hosts and its clients; leaves nothing behind."""

    def __init__(self, *broker_options: str) -> None:
        # An ipc path may have about 100 octets, fewer than pytest's own folders take.
        self._scratch = tempfile.TemporaryDirectory(prefix="warmslot-test-")
        self.folder = Path(self._scratch.name)
        self.endpoint = f"ipc://{self.folder}/broker.sock"
        self.broker_options = broker_options
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.clients: list[Client] = []
        self.starts = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.close()
        for name in list(self.processes):
            # Hosts first, while there is a broker to take leave of; what was stopped must go on.
            with contextlib.suppress(ProcessLookupError):
                self.processes[name].send_signal(signal.SIGCONT)
            self.kill(name)
        self._scratch.cleanup()

    # --- processes

    def start(
        self, name: str, *arguments: str, prefix: Sequence[str] = (), **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start `python -m ...`; what it writes goes to a file that `story` shows.

        *prefix* is a command that becomes the one after it, as nsenter does.
        """
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*prefix, sys.executable, *arguments],
                cwd=self.folder,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes[name] = process
        return process

    def start_broker(self) -> None:
        """Start the broker, for the first time or again, and wait until it is bound."""
        self.starts += 1
        options = ("--bind", self.endpoint, "--no-journal", *self.broker_options)
        process = self.start("broker", "-m", "broker", *options)
        self.until(lambda: self.log("broker").count("broker_ready") == self.starts)
        assert process.poll() is None, self.story()

    def start_host(self, name: str, *options: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a host, whose actors are NAME/0, NAME/1, ..."""
        mine = ("--broker", self.endpoint, "--name", name)
        return self.start(name, "-m", "actor", *mine, *options, **variables)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a process with a signal and reap it."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(number)
        process.wait(DEADLINE_S)

    def restart_broker(self) -> None:
        """Kill the broker with SIGKILL and start it again at the same endpoint."""
        self.kill("broker")
        self.start_broker()

    # --- what is there

    def client(self, **arguments: Any) -> Client:
        """Return a client that is closed in the end."""
        client = Client(self.endpoint, **arguments)
        self.clients.append(client)
        return client

    def actors(self, client: Client, *names: str) -> dict[str, dict[str, Any]]:
        """Wait until the broker would give a task to these actors; return what it knows of them."""

        def open_ones() -> dict[str, dict[str, Any]] | None:
            found = {actor["name"]: actor for actor in client.actors()}
            return found if all(map(has_granted, map(found.get, names))) else None

        def has_granted(actor: dict[str, Any] | None) -> bool:
            # One that has just come is open, and has not said yet what it has room for.
            if actor is None or actor["state"] != "open":
                return False
            return actor["free"] > 0 or any(actor["held"].values())

        return self.until(open_ones)

    def until(self, question: Callable[[], Any], timeout_s: float = DEADLINE_S) -> Any:
        """Wait for something with a deadline, and say what the processes wrote when it is over."""
        return wait_until(question, timeout_s, self.story)

    def log(self, name: str) -> str:
        """Return what a process wrote so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def story(self) -> str:
        """Return the end of what each process wrote."""
        parts = [""]
        for path in sorted(self.folder.glob("*.log")):
            parts += [f"--- {path.stem}", *self.log(path.stem).splitlines()[-25:]]
        return "\n".join(parts)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; an orphan that has ended is the tests' own to reap."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
