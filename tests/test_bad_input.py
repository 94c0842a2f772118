"""What a user, or a stranger on the port, does wrong: one clear line or exception, nothing lost.

Every test but the last few talks to the same broker and actor, which must be as good as new
afterwards.
"""

import contextlib
import os
import re
import select
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import zmq

import sdk.plan
import wire.session
from sdk import (
    Client,
    Comparator,
    Desired,
    PayloadTooLarge,
    ProtocolMismatch,
    SerializationError,
    TaskCanceled,
    TaskFailed,
    current_task,
    gather,
)
from tests.support.deployment import DEADLINE_S, Deployment, environment, wait_until
from wire.codec import decode_broker, encode
from wire.labels import Desire
from wire.messages import PROTOCOL, Beat, ClientHello, Error, Frame, Submit, Who

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S
PAYLOAD_BYTES_MAX = 200_000


def double(value):
    return value * 2


def wait_for(flag):
    from pathlib import Path
    from threading import Event

    while not Path(flag).exists():
        Event().wait(0.01)
    return flag


@pytest.fixture(scope="module")
def shared():
    with Deployment("--payload-bytes-max", str(PAYLOAD_BYTES_MAX)) as world:
        world.start_broker()
        world.start_host("h", "--slots", "2", "--label", "memory=512")
        world.actors(world.client(), "h/0")
        yield world


@pytest.fixture
def world(shared, tmp_path):
    """The shared broker and actor, with a task that runs all the while and must not be lost."""
    client = shared.clients[0]
    pid = client.submit(os.getpid).result(PATIENCE_S)
    flag = tmp_path / "flag"
    bystander = client.submit(wait_for, str(flag))
    broker = shared.processes["broker"]
    yield shared
    assert broker.poll() is None
    flag.touch()
    assert bystander.result(PATIENCE_S) == str(flag)
    assert bystander.attempt == 1
    assert client.submit(os.getpid).result(PATIENCE_S) == pid
    assert client.query("status")["assigned"] == 0


@pytest.fixture
def client(world):
    with Client(world.endpoint) as client:
        yield client


def run(*arguments, **variables):
    """Run a program that must end by itself; return its status and the lines it wrote on stderr."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(**variables),
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


# --- on the command line

COMMANDS = [
    (["broker", "--frob"], "broker: ", "--frob"),
    (["actor", "--frob"], "actor: ", "--frob"),
    (["sdk", "actors", "--frob"], "warmslot: ", "--frob"),
    (["sdk", "frob"], "warmslot: ", "'frob'"),
    (["sdk", "status", "--broker", "tcp://127.0.0.1:99999"], "warmslot: ", "not a port"),
    (["actor", "--broker", "tcp://127.0.0.1"], "actor: ", "'tcp://127.0.0.1'"),
    (["actor", "--label", "memory"], "actor: ", "label 'memory' has no '='"),
    (["actor", "--label", "a b=1"], "actor: ", "'a b'"),
    (["actor", "--slots", "none"], "actor: ", "'none'"),
    (["broker", "--bind", "tcp://0.0.0.0:5555", "--no-journal"], "broker: ", "bind 127.0.0.1"),
    (["broker", "--bind", "tcp://*:5555", "--no-journal"], "broker: ", "bind 127.0.0.1"),
    (["broker", "--bind", "5555", "--no-journal"], "broker: ", "'5555'"),
]


@pytest.mark.parametrize(("arguments", "program", "named"), COMMANDS)
def test_a_bad_command_line_is_one_line_and_status_2(arguments, program, named):
    status, lines = run("-m", *arguments)

    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(program)
    assert named in lines[0]


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_a_port_in_use_is_one_line_and_whoever_has_it_keeps_it(world, client, kind):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        endpoint = world.endpoint if kind == "ipc" else f"tcp://127.0.0.1:{port}"

        status, lines = run("-m", "broker", "--bind", endpoint, "--no-journal")

    assert status == 2
    assert len(lines) == 1
    assert f"{endpoint!r} is in use" in lines[0]
    assert client.submit(double, 21).result(PATIENCE_S) == 42


# --- what cannot be pickled


def test_an_argument_that_cannot_be_pickled_is_named(client):
    with pytest.raises(SerializationError) as caught:
        client.submit(double, value={"deep": [1, threading.Lock()]})

    assert re.search(r"double\(\).*value.*deep.*lock", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_function_that_cannot_be_pickled_is_named_with_what_it_holds(client):
    lock = threading.Lock()

    def guarded():
        with lock:
            return 1

    with pytest.raises(SerializationError) as caught:
        client.submit(guarded)

    assert "guarded" in str(caught.value)
    assert "lock" in str(caught.value)


def make_lock():
    return {"deep": [threading.Lock()]}


def test_a_result_that_cannot_be_pickled_fails_with_the_reason(client):
    with pytest.raises(SerializationError) as caught:
        client.submit(make_lock).result(PATIENCE_S)

    assert "result" in str(caught.value)
    assert "lock" in str(caught.value)


class Picky(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def raise_picky():
    raise Picky("one", "two")


def test_an_exception_whose_init_wants_more_than_it_kept_comes_back_as_itself(client):
    error = client.submit(raise_picky).exception(PATIENCE_S)

    assert type(error) is Picky
    assert error.args == ("one",)


def test_a_module_that_the_actor_does_not_have_is_named(client, tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "only_here.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(folder)
    import only_here

    with pytest.raises(ImportError) as caught:
        client.submit(only_here.answer).result(PATIENCE_S)

    assert caught.value.name == "only_here"
    assert "h/0" in str(caught.value)
    assert "install the module there" in str(caught.value)


# --- options and labels


def test_an_unknown_option_is_refused_and_a_keyword_goes_to_the_function(client):
    with pytest.raises(TypeError, match="frob"):
        client.options(frob=1)

    with pytest.raises(TypeError, match="frob"):
        client.submit(double, 1, frob=1).result(PATIENCE_S)


BAD_DESIRES = [
    {"memory": Desired("much", Comparator.GREATER_THAN)},
    {"memory": Desired(True, Comparator.LESS_THAN)},
    {"memory": Desired(3, Comparator.EXISTS)},
    {"memory": Desired("a", Comparator.IN)},
    {"memory": Desired(float("nan"))},
    {"memory": {"value": 1, "comparator": "about"}},
    {"memory": {"value": 1, "how": "roughly"}},
    {"two words": 1},
    {"memory": object()},
    {"": 1},
]


@pytest.mark.parametrize("labels", BAD_DESIRES)
def test_a_bad_desired_label_is_refused_at_submit(client, labels):
    with pytest.raises((TypeError, ValueError)) as caught:
        client.submit(double, 1, desired_labels=labels)

    assert "\n" not in str(caught.value)


def test_a_label_that_is_no_mapping_is_refused(client):
    with pytest.raises(TypeError, match="mapping"):
        client.submit(double, 1, desired_labels="gpu")


def upsert(labels):
    current_task().actor.upsert_labels(labels)


@pytest.mark.parametrize("labels", [{"a b": 1}, {"a": float("nan")}, {"a": None}, {"a": 2**70}])
def test_an_actor_refuses_a_bad_label(client, labels):
    with pytest.raises((TypeError, ValueError)):
        client.submit(upsert, labels).result(PATIENCE_S)


# --- versions


def test_a_client_of_another_protocol_is_told_and_ends(world, monkeypatch):
    monkeypatch.setattr(wire.session, "PROTOCOL", PROTOCOL + 1)
    with Client(world.endpoint) as other:
        future = other.submit(double, 1)

        with pytest.raises(ProtocolMismatch, match=f"{PROTOCOL + 1}"):
            future.result(PATIENCE_S)
        # It said that no broker answered, after its whole time, and that the call was accepted.
        for ask in (other.actors, lambda: other.flush(PATIENCE_S)):
            with pytest.raises(ProtocolMismatch, match=f"{PROTOCOL + 1}"):
                ask()
        assert not future.accepted(PATIENCE_S)

    with pytest.raises(ProtocolMismatch):
        Client(world.endpoint, connect_timeout=PATIENCE_S).close()


def test_code_of_another_python_waits_and_says_why(world, client, monkeypatch, capfd):
    monkeypatch.setattr(sdk.plan, "PYTHON_DESIRE", Desire("python", Comparator.EQUAL, "2.7"))

    future = client.submit(lambda: 1)
    portable = client.submit(divmod, 7, 2)

    assert portable.result(PATIENCE_S) == (3, 1)
    reason = client.explain(future)["reason"]
    offered = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"needs python eq '2.7', offers '{offered}'" in reason
    said = []
    wait_until(lambda: said.append(capfd.readouterr().err) or "task_waits" in "".join(said))
    assert "needs python eq '2.7'" in "".join(said)
    assert future.cancel()


# --- strangers on the port

HELLO = ClientHello(4711, "stranger", "3.11", [])
GARBAGE = [
    [b""],
    [b"", b""],
    [b"\xc1"],
    [b"GET / HTTP/1.1\r\n\r\n"],
    [b"\x91" * 50_000],
    [b"\xdd\xff\xff\xff\xff"],
    [encode([1, 2, 3])],
    [encode([PROTOCOL, 0, 1, 1, 0, []])],
    [encode([PROTOCOL, 0, -1, 1, 0, [["beat"]]])],
    [encode([PROTOCOL, 2**63, 1, 1, 0, [["beat"]]])],
    [encode([PROTOCOL, 0, 1, 1, 0, [["frob"]]])],
    [encode([PROTOCOL, 0, 1, 0, 0, [["client-hello", "x", 1, 2, 3]]])],
    [encode(Frame(PROTOCOL, 0, 1, 0, 0, [HELLO]))[:-1]],
    [encode(Frame(PROTOCOL, 0, 1, 1, 0, [Submit(1, 0, b"", 2)])), b"one"],
    [encode(Frame(PROTOCOL, 0, 1, 1, 0, [Beat()])), *[b"x"] * 200],
]


@contextlib.contextmanager
def stranger(world):
    context = zmq.Context()
    with context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(world.endpoint)
        yield dealer


@pytest.mark.parametrize("parts", GARBAGE, ids=range(len(GARBAGE)))
def test_a_garbage_frame_is_answered_counted_and_changes_nothing(world, client, parts):
    futures = client.map(double, range(20))
    with stranger(world) as dealer:
        dealer.send_multipart(parts)
        assert dealer.poll(PATIENCE_S * 1000)
        (command,) = decode_broker(dealer.recv()).commands

    assert isinstance(command, Error | Who)
    assert gather(futures, timeout=PATIENCE_S) == [2 * n for n in range(20)]


def test_the_third_bad_frame_ends_the_session_of_its_sender_alone(world, client):
    with stranger(world) as dealer:
        dealer.send(encode(Frame(PROTOCOL, 0, 1, 0, 0, [HELLO])))
        assert dealer.poll(PATIENCE_S * 1000)
        dealer.recv()

        answers = []
        for _ in range(3):
            dealer.send(b"\xc1")
        while sum(isinstance(answer, Error) for answer in answers) < 3:
            assert dealer.poll(PATIENCE_S * 1000)
            answers += decode_broker(dealer.recv()).commands

    errors = [answer for answer in answers if isinstance(answer, Error)]
    assert [error.fatal for error in errors] == [False, False, True]
    assert client.submit(double, 21).result(PATIENCE_S) == 42
    # The broker counts them, and writes of the first ones only.
    assert "bad_message" in world.log("broker")


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f",  # A signature, and no greeting behind it.
        b"\xff" * 1_000,
        os.urandom(100_000),
    ],
    ids=["nothing", "http", "half a greeting", "ones", "noise"],
)
def test_what_is_not_zeromq_at_all_does_no_harm(world, client, octets):
    path = world.endpoint.removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            raw.sendall(octets)
        assert client.submit(double, 21).result(PATIENCE_S) == 42


def test_connections_that_never_say_anything_do_no_harm(world, client):
    path = world.endpoint.removeprefix("ipc://")
    with contextlib.ExitStack() as open_ones:
        for _ in range(200):
            raw = open_ones.enter_context(socket.socket(socket.AF_UNIX))
            raw.connect(path)
        assert client.submit(double, 21).result(PATIENCE_S) == 42


def test_a_flood_of_garbage_does_not_hold_up_others(world, client):
    with stranger(world) as dealer:
        dealer.sndhwm = 0
        for _ in range(20_000):
            dealer.send(b"\xc1" * 100)
        assert gather(client.map(double, range(50)), timeout=PATIENCE_S)[-1] == 98
        while dealer.poll(0):
            dealer.recv()


# --- too large


def test_arguments_over_the_limit_fail_with_both_numbers(client):
    future = client.submit(double, np.zeros(PAYLOAD_BYTES_MAX))

    with pytest.raises(PayloadTooLarge) as caught:
        future.result(PATIENCE_S)
    assert str(PAYLOAD_BYTES_MAX) in str(caught.value)
    assert "--payload-bytes-max" in str(caught.value)
    assert "double" in str(caught.value)


def test_code_over_the_limit_fails(client):
    ballast = "x" * (PAYLOAD_BYTES_MAX + 1)

    with pytest.raises(PayloadTooLarge, match="code"):
        client.submit(lambda: len(ballast)).result(PATIENCE_S)


def test_a_result_over_the_limit_fails(client):
    future = client.submit(double, b"x" * (PAYLOAD_BYTES_MAX // 2 + 1000))

    with pytest.raises(PayloadTooLarge, match=str(PAYLOAD_BYTES_MAX)):
        future.result(PATIENCE_S)


def raise_large():
    raise ValueError("x" * (PAYLOAD_BYTES_MAX + 1))


def test_of_an_exception_over_the_limit_the_text_comes_back(client):
    error = client.submit(raise_large).exception(PATIENCE_S)

    assert isinstance(error, TaskFailed)
    assert error.type == "ValueError"
    assert str(error).startswith("ValueError: xxx")


def test_the_large_ones_among_many_fail_alone(client):
    sizes = [10, PAYLOAD_BYTES_MAX + 1, 20, PAYLOAD_BYTES_MAX // 2 + 1000, 30]

    outcomes = gather(client.map(double, [b"x" * size for size in sizes]), return_exceptions=True)

    assert [len(outcomes[place]) for place in (0, 2, 4)] == [20, 40, 60]
    assert all(isinstance(outcomes[place], PayloadTooLarge) for place in (1, 3))


# --- user code that ends oddly


def leave(way):
    if way == "exit":
        sys.exit(3)
    raise {"interrupt": KeyboardInterrupt, "generator": GeneratorExit}[way]


@pytest.mark.parametrize("way", ["exit", "interrupt", "generator"])
def test_what_would_end_a_program_ends_only_the_task(client, way):
    error = client.submit(leave, way).exception(PATIENCE_S)

    assert isinstance(error, Exception)
    assert not isinstance(error, TaskCanceled)


def recurse():
    return recurse()


def test_a_recursion_without_end_is_an_exception(client):
    assert isinstance(client.submit(recurse).exception(PATIENCE_S), RecursionError)


def close_everything():
    os.closerange(0, 3)
    print("nobody hears this")


def test_a_task_that_closes_the_standard_streams_harms_only_its_actor():
    with Deployment() as world:
        world.start_broker()
        world.start_host("h")
        client = world.client()
        world.actors(client, "h/0")

        client.submit(close_everything).exception(PATIENCE_S)

        assert client.submit(double, 21).result(PATIENCE_S) == 42
        select.select([], [], [], 0.1)
        assert client.submit(double, 21).result(PATIENCE_S) == 42
