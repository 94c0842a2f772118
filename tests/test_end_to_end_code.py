"""Code and data travel as they are: closures, classes, the script's own modules, arrays."""

import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import (
    Generic,
    NewType,
    ParamSpec,
    TypedDict,
    TypeVar,
    TypeVarTuple,
    get_type_hints,
)

import numpy as np
import pytest

from sdk import LocalCluster, current_task
from tests.support.deployment import ROOT, Deployment, ended_at_once
from tests.test_end_to_end import PATIENCE_S, double

pytestmark = [pytest.mark.process, pytest.mark.slow]

# What the console script does, and whose names a user's module may have as well.
COMMAND = ("-P", "-c", "from warmslot import main; main()")
NAMES = ("broker", "actor", "sdk", "wire")


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster() as cluster:
        yield cluster


def test_lambdas_closures_partials_and_local_classes_travel(client):
    offset = 3

    class Point:
        def __init__(self, x):
            self.x = x

        def moved(self, by):
            return Point(self.x + by + offset)

    assert client.submit(lambda x: x + offset, 4).result(PATIENCE_S) == 7
    assert client.submit(partial(pow, 2), 5).result(PATIENCE_S) == 32
    moved = client.submit(Point(1).moved, 2).result(PATIENCE_S)
    assert (type(moved), moved.x) == (Point, 6)


def test_a_closure_that_changed_is_sent_again(client):
    count = 1

    def read():
        return count

    first = client.submit(read).result(PATIENCE_S)
    count = 2

    assert (first, client.submit(read).result(PATIENCE_S)) == (1, 2)


SCRIPT = """
    import sys
    from sdk import Client
    import own_helper

    FACTOR = int(sys.argv[2])

    def scale(value):
        return own_helper.shift(value) * FACTOR

    if __name__ == "__main__":
        with Client(sys.argv[1], connect_timeout=60) as client:
            print(client.submit(scale, 1).result(60))
"""


def run_script(path, *arguments):
    done = ended_at_once(sys.executable, path, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_main_and_own_modules_travel_by_value_as_they_are_now(cluster, tmp_path):
    script, helper = tmp_path / "script.py", tmp_path / "own_helper.py"
    script.write_text(textwrap.dedent(SCRIPT))

    helper.write_text("def shift(value):\n    return value + 1\n")
    first = run_script(script, cluster.endpoint, "10")
    helper.write_text("def shift(value):\n    return value + 200\n")
    second = run_script(script, cluster.endpoint, "10")

    assert (first, second) == (["20"], ["2010"])


def describe_array(array):
    return array.flags.owndata, array.nbytes, float(array.sum())


def test_arrays_travel_out_of_band_both_ways(client):
    array = np.ones((1000, 1000))

    owns, size, total = client.submit(describe_array, array).result(PATIENCE_S)
    back = client.submit(double, {"x": array}).exception(PATIENCE_S)
    twice = client.submit(np.multiply, array, 2).result(PATIENCE_S)

    # An array that does not own its memory lies in the frame that it came in.
    assert (owns, size, total) == (False, array.nbytes, 1e6)
    assert isinstance(back, TypeError)
    assert not twice.flags.owndata
    assert twice.sum() == 2e6


def write_to(array):
    array[0] = 1
    return array


@pytest.mark.parametrize("size", [2**14 - 512, 2**14, 2**15, 2**16, 2**17])
def test_an_array_of_some_sizes_could_not_be_written_to_in_a_task(client, size):
    back = client.submit(write_to, np.zeros(size, np.uint8)).result(PATIENCE_S)

    assert back[0] == 1
    back[0] = 2


def test_a_function_with_a_new_type_in_its_annotations_found_none_on_the_actor(client):
    UserId = NewType("UserId", int)
    P = ParamSpec("P")  # noqa: N806
    Ts = TypeVarTuple("Ts")  # noqa: N806

    def apply(call: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> UserId:
        return UserId(call(*args, **kwargs))

    def count(*args: *Ts) -> int:
        return current_task().client.submit(apply, sum, args).result(PATIENCE_S)

    assert client.submit(count, 1, 2).result(PATIENCE_S) == 3


def test_a_typed_dict_that_inherits_or_is_made_by_a_call_could_not_be_made_on_the_actor(client):
    K = TypeVar("K")

    class Point(TypedDict):
        x: int

    class Named(Point, Generic[K], total=False):
        name: K

    Odd = TypedDict("Odd", {"a key": Named[str]})

    def move(odd: Odd) -> Point:
        return Point(x=odd["a key"]["x"] + 1)

    def said() -> list[object]:
        keys = Named.__required_keys__, Named.__optional_keys__
        return [*keys, Named.__total__, Named.__parameters__ == (K,), get_type_hints(Point)]

    assert client.submit(move, {"a key": {"x": 1}}).result(PATIENCE_S) == {"x": 2}
    assert client.submit(said).result(PATIENCE_S) == said()


FLAGS = """
    import sys

    sys.path.insert(0, sys.argv[1])

    from sdk import LocalCluster

    def flags():
        return sys.flags.optimize, sys.dont_write_bytecode, sys.flags.dev_mode, sys.warnoptions

    if __name__ == "__main__":
        with LocalCluster(actors=1) as cluster, cluster.client() as client:
            print(client.submit(flags).result(60) == flags())
"""


OWN_ACTOR = """
    import sys
    from sdk import LocalCluster
    import actor

    def act(policy):
        return actor.best(policy)

    if __name__ == "__main__":
        with LocalCluster(actors=1) as cluster, cluster.client() as client:
            print(client.submit(act, [3, 1, 2]).result(60))
"""


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["-m", "sdk", "status"], 2, ": rename it, or say `warmslot` instead of `python -m sdk`\n"),
        (["-c", "import sdk"], 1, ": rename it\n"),
    ],
)
def test_a_wire_py_of_the_users_is_named_where_it_hides_ours(tmp_path, command, status, said):
    (tmp_path / "wire.py").write_text("")

    done = ended_at_once(sys.executable, *command, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.endswith(f"warmslot: {tmp_path}/wire.py hides our package wire{said}")
    # Whoever only gives an order is shown no traceback.
    assert done.stderr.count("\n") == 1 or status == 1


def test_a_module_of_the_users_that_is_called_as_one_of_ours_hides_none_in_a_cluster(tmp_path):
    (tmp_path / "actor.py").write_text("def best(policy):\n    return max(policy)\n")
    (tmp_path / "broker.py").write_text("raise SystemExit('imported instead')\n")
    (tmp_path / "script.py").write_text(textwrap.dedent(OWN_ACTOR))

    done = ended_at_once(sys.executable, tmp_path / "script.py", cwd=tmp_path)

    assert (done.stdout, done.stderr) == ("3\n", "")


@pytest.mark.parametrize("options", [("-O", "-X", "dev"), ("-I", "-B", "-W", "default")])
def test_actors_did_not_have_the_interpreters_own_options(tmp_path, options):
    (tmp_path / "script.py").write_text(textwrap.dedent(FLAGS))

    done = ended_at_once(sys.executable, *options, tmp_path / "script.py", ROOT, cwd=tmp_path)

    assert (done.stdout, done.stderr) == ("True\n", "")


def test_the_console_script_starts_ours_where_a_folder_has_modules_of_the_same_names():
    with Deployment() as world:
        for name in NAMES:
            (world.folder / f"{name}.py").write_text("raise SystemExit('imported instead')\n")
        (world.folder / "mine.py").write_text(
            "from sdk import Environment\n\n\nclass Mine(Environment):\n"
            "    def enter(self):\n        print('entered mine', flush=True)\n"
        )
        broker = ("broker", "--bind", world.endpoint, "--no-journal")
        world.start("broker", *COMMAND, *broker)
        world.start(
            *("host", *COMMAND, "actor", "--broker", world.endpoint),
            # Both ways to start an actor; and a module beside the user is found by both.
            *("--replicas", "2", "--environment", "mine:Mine"),
        )

        world.until(lambda: world.log("host").count("entered mine") == 2)
        world.kill("host")
        world.start(
            *("host", *COMMAND, "actor", "--broker", world.endpoint, "--start-method", "spawn"),
            *("--environment", "mine:Mine"),
        )

        world.until(lambda: world.log("host").count("entered mine") == 3)


def test_a_users_folder_on_pythonpath_with_modules_of_the_same_names_hides_none_of_ours():
    with Deployment() as world:
        app = world.folder / "app"
        app.mkdir()
        for name in NAMES:
            (app / f"{name}.py").write_text("raise SystemExit('imported instead')\n")
        (app / "mine.py").write_text("def double(value):\n    return 2 * value\n")
        paths = f"{app}:{ROOT}"
        broker = ("broker", "--bind", world.endpoint, "--no-journal")
        world.start("broker", *COMMAND, *broker, PYTHONPATH=paths)
        for name, method in (("forked", "forkserver"), ("spawned", "spawn")):
            host = ("actor", "--broker", world.endpoint, "--name", name, "--start-method", method)
            world.start(name, *COMMAND, *host, PYTHONPATH=paths)

        world.actors(world.client(), "forked/0", "spawned/0")
        # What is beside it is found, as by any program.
        submit = (*COMMAND, "submit", "mine:double", "value=3")
        done = ended_at_once(
            sys.executable, *submit, PYTHONPATH=paths, WARMSLOT_BROKER=world.endpoint
        )

    assert (done.stdout, done.stderr) == ("6\n", "")
