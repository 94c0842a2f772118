"""LocalCluster: a broker and actors as child processes, for tests, laptops and examples.

Nothing is left behind: not after an exception or Ctrl-C, and not when this process is killed, since
each child watches a pipe that only this process holds open.
"""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Final, Self

from sdk.client import Client
from sdk.errors import WarmslotError
from sdk.reading.deadlines import WAIT_MAX_S
from wire.labels import Labels, check_own, is_name, validate_labels
from wire.ours import interpreter
from wire.texts import brief

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 2.0
LOOK_INTERVAL_S: Final = 0.02
DRAIN_TIMEOUT_S: Final = 1.0
# At an endpoint of its own there was no broker before, whose runs and limits could be taken over.
ADOPT_WINDOW_S: Final = "0.05"
ERROR_LINES_MAX: Final = 20
# How many short tasks wait in an actor beyond its slots: as many as help.
AUTO: Final = "auto"
# What an actor can be told here, and the option of `python -m actor` that says it.
SPECIFICATION: Final = (
    "slots",
    "labels",
    "prefetch",
    "replicas",
    "name",
    "limits",
    "environments_max",
    "arguments",
)
# sun_path has 108 octets on Linux and 104 on macOS.
IPC_PATH_MAX: Final = 100


class ClusterFailed(WarmslotError, RuntimeError):
    """The processes of a LocalCluster did not come up; the message has what they wrote."""


class LocalCluster:
    """A broker with *actors* actors of *slots* slots each, which offer *labels*.

    `LocalCluster(actors=[dict(slots=2, labels={"memory": 512}), dict(slots=1)])` makes unlike ones;
    a dict may have slots, labels, prefetch, replicas, name, environments_max, arguments (further
    ones of `python -m actor`), and limits, which are those of its host: `dict(limits={"gpu": 2})`.
    *limits* are the broker's, as `--limit` takes them: `limits=["db=10", "api=2:per-key"]`, and
    *arguments* further ones of `python -m broker`: `arguments=["--scale-down", "60"]`.
    Replicas (1, 3) let the broker have more started. Slots of other types stand in a mapping:
    `slots={"slot": 4, "io": 16, "gpu": ["0", "1"]}`, names for units. *prefetch* is how many short
    tasks may wait in an actor beyond its slots, "auto" or a number. With *show_output* what tasks
    print and log stands on the caller's own stdout and stderr, between the events of the hosts;
    otherwise nobody sees it. Returns when all are ready, within *timeout* seconds; raises
    ClusterFailed with what the processes wrote when they are not.
    """

    def __init__(
        self,
        actors: int | Iterable[Mapping[str, Any]] = 2,
        slots: int | Mapping[str, Any] = 1,
        labels: Mapping[str, Any] | None = None,
        *,
        prefetch: int | str = AUTO,
        limits: Iterable[str] = (),
        arguments: Iterable[str] = (),
        timeout: float = START_TIMEOUT_S,
        show_output: bool = False,
    ) -> None:
        """Start everything and wait until it is ready."""
        self._hosts = read_actors(actors, slots=slots, labels=labels, prefetch=prefetch)
        check_texts("limits", limits, "'db=10'")
        check_texts("arguments", arguments, "'--lease', '9'")
        if type(timeout) not in (int, float):
            raise TypeError(f"timeout={brief(timeout)} is not a number of seconds")
        self._options = ["--adopt-window", ADOPT_WINDOW_S]
        self._options += [f"--limit={limit}" for limit in limits] + list(map(str, arguments))
        self._shows_output = show_output
        self._pid = os.getpid()
        self._clients: list[Client] = []
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="warmslot-"))
        socket = self._folder / "broker"
        if len(os.fsencode(socket)) > IPC_PATH_MAX:
            shutil.rmtree(self._folder)
            self._folder = Path(tempfile.mkdtemp(prefix="warmslot-", dir="/tmp"))
            socket = self._folder / "broker"
        self._endpoint = f"ipc://{socket}"
        atexit.register(self.close)
        try:
            self._start(timeout)
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        """Return the broker's endpoint."""
        return self._endpoint

    @property
    def processes(self) -> dict[str, int]:
        """Return the process ids of the broker and the hosts, by name."""
        return {name: child.pid for name, child in self._children}

    def client(self, **arguments: Any) -> Client:
        """Return a new client of this broker, which is closed with the cluster at the latest."""
        if not self._children:
            raise ClusterFailed("the cluster is closed")
        client = Client(self._endpoint, **arguments)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """End everything: running tasks are given a second. Closing twice does no harm."""
        if self._pid != os.getpid():
            return
        atexit.unregister(self.close)
        while self._clients:
            self._clients.pop().close()
        # Hosts first, so that their actors can take leave of the broker.
        hosts = [child for name, child in self._children if name != "broker"]
        stop(hosts)
        stop([child for _, child in self._children])
        self._children.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """End everything."""
        self.close()

    def __repr__(self) -> str:
        """Show the endpoint."""
        return f"LocalCluster({self._endpoint!r})"

    # --- starting

    def _start(self, timeout: float) -> None:
        deadline = monotonic() + min(timeout, WAIT_MAX_S)
        self._spawn("broker", "broker", "--bind", self._endpoint, "--no-journal", *self._options)
        expected: set[str] = set()
        for host in self._hosts:
            name = str(host["name"])
            expected |= {f"{name}/{index}" for index in range(least(host["replicas"]))}
            self._spawn(name, "actor", "--broker", self._endpoint, *options_of(host))
        # A client that is there before its broker would soon log that it finds none.
        while not (self._folder / "broker").exists():
            self._check_children()
            if monotonic() >= deadline:
                raise ClusterFailed(f"not ready after {timeout} s: broker{self._errors()}")
            sleep(LOOK_INTERVAL_S)
        client = self.client(name="cluster")
        while missing := self._missing(client, expected, deadline):
            if monotonic() >= deadline:
                names = ", ".join(sorted(missing))
                raise ClusterFailed(f"not ready after {timeout} s: {names}{self._errors()}")
            client.pause(LOOK_INTERVAL_S)
        self._clients.remove(client)
        client.close()

    def _check_children(self) -> None:
        """Raise ClusterFailed where one has ended by itself."""
        for name, child in self._children:
            if child.poll() is not None:
                raise ClusterFailed(f"{name} ended with {child.returncode}{self._errors()}")

    def _missing(self, client: Client, expected: set[str], deadline: float) -> set[str]:
        """Name the actors of *expected* to which the broker would give no task, or what else is."""
        self._check_children()
        timeout = min(0.5, max(0.0, deadline - monotonic()))
        try:
            actors = client.actors(timeout=timeout)
            hosts = client.query("status", timeout=timeout)["hosts"]
        except TimeoutError:
            return expected or {"broker"}
        missing = expected - {actor["name"] for actor in actors if actor["state"] == "open"}
        # What a host has of limits is known once it is there itself.
        return missing or (set() if hosts == len(self._hosts) else {"a host"})

    def _spawn(self, name: str, module: str, *arguments: str) -> None:
        """Start a module as a child that ends with this process."""
        # Whoever outlives this process removes it, also where the broker was killed as well.
        folder = str(self._folder)
        launch = Path(__file__).with_name("launch.py").read_text(encoding="utf-8")
        is_shown = self._shows_output and module == "actor"
        with (self._folder / f"{name}.log").open("wb") as log:
            # They find the packages by PYTHONPATH, whatever this process reads of it.
            python = interpreter("-E", "-I")
            child = subprocess.Popen(
                [*python, "-P", "-c", launch, folder, module, *arguments],
                stdin=subprocess.PIPE,
                stdout=None if is_shown else log,
                stderr=None if is_shown else log,
                env=environment_of_children(),
                # Ctrl-C is for this process, which ends them in the right order.
                start_new_session=True,
            )
        self._children.append((name, child))

    def _errors(self) -> str:
        """Return the end of what each process wrote."""
        parts = [""]
        for name, _ in self._children:
            with contextlib.suppress(OSError):
                text = (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                lines = text.splitlines()[-ERROR_LINES_MAX:]
                parts += [f"--- {name}", *lines]
        return "\n".join(parts)


def stop(children: list[subprocess.Popen[bytes]]) -> None:
    """End processes: politely, urgently, at last without asking; and whatever they started."""
    for signal_number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        waiting = [child for child in children if child.poll() is None]
        for child in waiting:
            child.send_signal(signal_number)
        deadline = monotonic() + STOP_TIMEOUT_S
        for child in waiting:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - monotonic()))
    for child in children:
        # The group outlives its leader when that was killed before it could end its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        if child.stdin is not None:
            child.stdin.close()


def read_actors(
    actors: int | Iterable[Mapping[str, Any]],
    *,
    slots: int | Mapping[str, Any],
    labels: Mapping[str, Any] | None,
    prefetch: int | str,
) -> list[dict[str, Any]]:
    """Read which hosts to start: one for like actors, one for each of unlike ones."""
    alike = {"slots": slots, "labels": labels or {}, "prefetch": prefetch, "replicas": 1}
    if isinstance(actors, int):
        if isinstance(actors, bool) or actors < 1:
            raise ValueError(f"actors={brief(actors)} must be at least 1")
        hosts: list[dict[str, Any]] = [alike | {"replicas": actors, "name": "local"}]
    else:
        hosts = []
        listed: Any = actors
        for index, given in enumerate(listed if isinstance(listed, Iterable) else [listed]):
            if not isinstance(given, Mapping):
                raise TypeError(f"actors={brief(actors)} must be a number, or a list of mappings")
            unknown = set(given) - set(SPECIFICATION)
            if unknown:
                raise ValueError(
                    f"actors[{index}]: {sorted(unknown)} is not known; an actor has "
                    f"{', '.join(SPECIFICATION)}"
                )
            hosts.append(alike | {"name": f"local{index}"} | dict(given))
        if not hosts:
            raise ValueError("actors must not be empty")
    for host in hosts:
        if isinstance(host["slots"], Mapping):
            typed = dict(host["slots"])
            host["slots"], host["typed"] = typed.pop("slot", 1), typed
            for kind, units in typed.items():
                check_slots(kind, units)
        for key in ("slots", "replicas", "prefetch"):
            low = 0 if key == "prefetch" else 1
            if key == "prefetch" and host[key] == AUTO:
                continue
            if key == "replicas" and type(host[key]) is tuple:
                check_range(host[key])
                continue
            if type(host[key]) is not int or host[key] < low:
                other = ', or "auto"' if key == "prefetch" else ""
                raise ValueError(f"{key}={host[key]!r} must be an int of at least {low}{other}")
        if not isinstance(host["labels"], Mapping):
            raise TypeError(f"labels={host['labels']!r} must be a mapping from label to value")
        if not isinstance(host.get("limits", {}), Mapping):
            raise TypeError(f"limits={host['limits']!r} must be a mapping from name to amount")
        check_texts("arguments", host.get("arguments", ()), "'--keys', 'DIR'")
        host["labels"] = check_own(validate_labels(host["labels"]), of_machine=True)
        if type(host["name"]) is not str:
            raise TypeError(f"name={host['name']!r} is not a text")
    if len({host["name"] for host in hosts}) < len(hosts):
        raise ValueError("two actors have the same name")
    for host in hosts:
        if "/" in host["name"]:
            raise ValueError(f"name={host['name']!r} has a '/', behind which actors are counted")
    if any(host["name"] == "broker" for host in hosts):
        raise ValueError("an actor cannot be called 'broker' here, which is the broker's own name")
    return hosts


def check_texts(what: str, given: Any, example: str) -> None:
    """Raise TypeError unless *given* is a list of texts."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"{what}={brief(given)} must be a list of texts, as [{example}]")


def check_slots(kind: Any, units: Any) -> None:
    """Raise ValueError unless *kind* is a type of slots, and *units* an amount or their names."""
    if not isinstance(kind, str) or not is_name(kind):
        raise ValueError(f"slots: {brief(kind)} is not the name of a slot type, as in {{'gpu': 2}}")
    if type(units) is int and units > 0:
        return
    names = list(map(str, units)) if isinstance(units, list | tuple) else []
    if not names or not all(name.strip() and "," not in name for name in names):
        raise ValueError(
            f"slots: {brief(kind)}: {brief(units)} is neither an int of at least 1 nor a list of"
            " names"
        )


def check_range(replicas: tuple[Any, ...]) -> None:
    """Raise ValueError for what is not how many actors there are at least and at most."""
    is_range = len(replicas) == 2 and all(type(number) is int for number in replicas)
    if not is_range or not 0 <= replicas[0] <= replicas[1]:
        raise ValueError(
            f"replicas={brief(replicas)} must be an int of at least 1, or a tuple (minimum,"
            " maximum) of ints, the minimum 0 or more"
        )


def least(replicas: int | tuple[int, int]) -> int:
    """Return how many actors a host has at its start."""
    return replicas[0] if isinstance(replicas, tuple) else replicas


def options_of(host: Mapping[str, Any]) -> list[str]:
    """Say a host's part on the command line of `python -m actor`."""
    options = ["--drain-timeout", str(DRAIN_TIMEOUT_S)]
    for key in ("name", "slots", "replicas", "prefetch"):
        value = host[key]
        shown = ":".join(map(str, value)) if isinstance(value, tuple) else str(value)
        options.append(f"--{key}={shown}")
    if "environments_max" in host:
        options.append(f"--environments-max={host['environments_max']}")
    options += map(str, host.get("arguments", ()))
    for kind, units in host.get("typed", {}).items():
        # A trailing comma makes a name of a single number.
        amount = units if isinstance(units, int) else "".join(f"{name}," for name in units)
        options += ["--slot", f"{kind}={amount}"]
    for limit, maximum in host.get("limits", {}).items():
        options += ["--limit", f"{limit}={maximum}"]
    labels: Labels = host["labels"]
    for key, value in labels.items():
        for one in value if isinstance(value, list) else [value]:
            # A text that looks like a number stays a text.
            options += ["--label", f"{key}={'str:' if isinstance(one, str) else ''}{one}"]
    return options


def environment_of_children() -> dict[str, str]:
    """Return our environment, in which the packages are found from any folder."""
    environment = {key: value for key, value in os.environ.items() if key[:9] != "WARMSLOT_"}
    root = str(Path(__file__).resolve().parents[1])
    own = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths = [root, *(path or os.getcwd() for path in sys.path)]  # noqa: PTH109 - a text.
    kept = [path for path in dict.fromkeys(paths) if path not in own or path == root]
    environment["PYTHONPATH"] = os.pathsep.join(kept)
    return environment
