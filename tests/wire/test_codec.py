"""The codec: what goes out comes back, and whatever comes in raises one kind of error at most."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.codec import (
    check_payloads,
    decode_broker,
    decode_failure,
    decode_peer,
    encode,
    encode_failure,
)
from wire.errors import Code, RemoteProtocolError
from wire.labels import Comparator, Desire
from wire.messages import (
    ARGUMENT_LENGTH_MAX,
    COMMANDS_MAX,
    PROTOCOL,
    ActorBeat,
    ActorHello,
    Answer,
    Assign,
    Beat,
    Bye,
    ByeAck,
    Cancel,
    ClientHello,
    Credit,
    Death,
    Drain,
    Error,
    Frame,
    Function,
    HostBeat,
    HostHello,
    Kill,
    LabelsChanged,
    Outcome,
    OutcomeAck,
    Query,
    Reject,
    Release,
    Requeued,
    Result,
    Stop,
    Submit,
    Template,
    Welcome,
    Who,
)
from wire.parts import Attested, Call, Environment, Failure, Held, Holding, Kept, Status

TOKEN = (1_790_000_000_000, 12)
CALL = Call(
    "resize",
    b"h" * 16,
    "detect",
    Environment("id", "Vision", b"b" * 16, {"model": ["v1", "v2"]}, 4),
    [
        Desire("memory", Comparator.GREATER_THAN, 256),
        Desire("zone", Comparator.IN, ["eu", "us"], required=False, weight=1.5),
        Desire("gpu", Comparator.EXISTS, None),
    ],
    {"gpu": 2},
    -10,
    "team",
    1.5,
    60.0,
    at_most_once=True,
    durable=True,
    retries=3,
    limits={"db": 1},
    metadata={"a": 1, "b": True, "c": "x", "d": 0.5},
)
PEER = [
    ClientHello(2**63, "train.py", "3.11", [(1, 9), (11, 11)]),
    ActorHello(
        *(9, "gpu1/0", 7, 4711, "3.11", 1, {"memory": 512, "model": ["a", "b"]}, {"slot": 2}, 4),
        [Holding(1, 2, TOKEN, Held.RELEASED)],
        [Kept(1, 3, TOKEN)],
    ),
    HostHello(7, "gpu1", 1, {"gpu": 1}, [Attested(9, "gpu1/0", 4711, 1.25, stopped=False)]),
    Function(0, b"h" * 16, b"code", 0),
    Template(4_095, CALL),
    Submit(7, 0, b"arguments", 0, again=True, tries=2, parent=TOKEN),
    Cancel([1, 2, 3], force=True),
    Query(1, "explain", "7"),
    Credit(2, 16, 1, {"id": 1}, {"gpu": 0}),
    Outcome(*TOKEN, Status.RESULT, b"value", 0, 0.018),
    Release(*TOKEN, {"gpu": 1}),
    Reject(*TOKEN, "paused"),
    LabelsChanged(2, {"load": 0.5}),
    ActorBeat(Credit(1), 2, {"gpu": True}, [TOKEN], {"id": "warm"}),
    HostBeat([Attested(9, "gpu1/0", 4711, 1.25, stopped=True)]),
    Death(9, None, 11, [TOKEN], "out of memory", [TOKEN]),
    Beat(),
    Bye("done"),
]
BROKER = [
    Welcome(1.0, 2.0, 5.0, 0.5, [(1, 2)], 100_000, 2**28, 2**28, 512, 4_096),
    Who(),
    Error("bad-frame", "why", fatal=True),
    Function(1, b"h" * 16, b"", 1),
    Template(0, Call("f")),
    Assign(12, 1, 7, 0, 1, b"arguments", 0),
    Stop(*TOKEN, force=True, reason="canceled"),
    OutcomeAck([TOKEN], [TOKEN]),
    Result(7, Status.LOST, b"why", 0, "gpu1/0", 2),
    Requeued(7, 1, "actor died"),
    Answer(1, b"map"),
    Kill(9, "silent"),
    Drain(30.0),
    Beat(),
    ByeAck(),
]


def framed(*commands, **fields):
    header = {"protocol": PROTOCOL, "epoch": 5, "session": 1, "number": 2, "received": 3} | fields
    return Frame(**header, commands=list(commands))


def name_of(command):
    return type(command).__name__


# --- there and back


@pytest.mark.parametrize("command", PEER, ids=name_of)
def test_what_a_peer_says_is_what_the_broker_reads(command):
    frame = framed(command, Beat())

    assert decode_peer(encode(frame)) == frame


@pytest.mark.parametrize("command", BROKER, ids=name_of)
def test_what_the_broker_says_is_what_a_peer_reads(command):
    frame = framed(command, Beat())

    assert decode_broker(encode(frame)) == frame


def test_a_frame_is_read_from_any_buffer():
    frame = framed(Submit(1, 0, b"x"))

    assert decode_peer(memoryview(bytearray(encode(frame)))) == frame


def test_what_was_read_does_not_change_with_the_buffer():
    buffer = bytearray(encode(framed(Submit(1, 0, b"body"))))
    frame = decode_peer(memoryview(buffer))

    buffer[:] = bytes(len(buffer))

    assert frame.commands[0].body == b"body"


def test_a_small_submit_is_small():
    assert len(encode(framed(Submit(1_000_000, 3, b"")))) < 32


# --- what is refused


def refusal(decode, control):
    with pytest.raises(RemoteProtocolError) as raised:
        decode(control)
    return raised.value


@pytest.mark.parametrize("command", BROKER, ids=name_of)
def test_the_broker_reads_nothing_that_only_it_may_say(command):
    control = encode(framed(command))
    if any(type(command) is type(spoken) for spoken in PEER):
        assert decode_peer(control).commands == [command]
    else:
        assert refusal(decode_peer, control).code is Code.BAD_FRAME


@pytest.mark.parametrize("protocol", [0, 2, -1, 2**62])
@pytest.mark.parametrize("rest", [[1, 1, 0, 0, [["beat"]]], [], ["another", "shape"], [{}] * 9])
def test_another_version_is_told_apart_from_garbage(protocol, rest):
    control = msgspec.msgpack.encode([protocol, *rest])

    for decode in (decode_peer, decode_broker):
        error = refusal(decode, control)
        assert (error.code, error.fatal) == (Code.PROTOCOL_MISMATCH, True)
        assert f"speaks protocol {protocol}," in error.message


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "text",
        [],
        {},
        [True, 1, 1, 0, 0, [["beat"]]],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, None],
        [1, 1, 1, 0, 0, {}],
        [1, 1, 1, 0, 0, ["beat"]],
        [1, 1, 1, 0, 0, [["nonsense"]]],
        [1, 1, 1, 0, 0, [[]]],
        [1, "1", 1, 0, 0, [["beat"]]],
        [1, 1.5, 1, 0, 0, [["beat"]]],
        [1, 1, 1, 0, 0, [["submit", 1, 0]]],
        [1, 1, 1, 0, 0, [["submit", 1, 0, "text"]]],
        [1, 1, 1, 0, 0, [["outcome", 1, 1, "nearly", b""]]],
        [1, 1, 1, 0, 0, [["credit", None]]],
        [1, 1, 1, 0, 0, []],
    ],
)
def test_another_shape_is_a_bad_frame(value):
    error = refusal(decode_peer, msgspec.msgpack.encode(value))

    assert (error.code, error.fatal) == (Code.BAD_FRAME, False)


def test_more_commands_than_allowed_are_a_bad_frame():
    most = framed(*[Beat()] * COMMANDS_MAX)
    assert len(decode_peer(encode(most)).commands) == COMMANDS_MAX

    error = refusal(decode_peer, encode(framed(*[Beat()] * (COMMANDS_MAX + 1))))

    assert error.code is Code.BAD_FRAME


def test_a_longer_argument_than_allowed_is_a_bad_frame():
    most = framed(Query(1, "pause", "x" * ARGUMENT_LENGTH_MAX))
    assert decode_peer(encode(most)) == most

    error = refusal(decode_peer, encode(framed(Query(1, "pause", "x" * (ARGUMENT_LENGTH_MAX + 1)))))

    assert error.code is Code.BAD_FRAME


@pytest.mark.parametrize("depth", [10, 5_000, 500_000])
def test_deep_nesting_is_a_bad_frame(depth):
    assert refusal(decode_peer, b"\x91" * depth).code is Code.BAD_FRAME


@pytest.mark.parametrize(
    "head", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_a_length_that_is_a_lie_takes_no_memory(head):
    assert refusal(decode_peer, head + b"\x01" * 20).code is Code.BAD_FRAME
    assert refusal(decode_peer, b"\x96\x01\x01\x01\x00\x00" + head).code is Code.BAD_FRAME


# --- payload frames


@pytest.mark.parametrize(
    ("commands", "came"),
    [
        ([Beat()], 0),
        ([Submit(1, 0, b"")], 0),
        ([Submit(1, 0, b"", 2), Beat(), Submit(2, 0, b"", 1)], 3),
        ([Outcome(1, 1, Status.RESULT, b"", 1), Credit(1)], 1),
        (
            [
                Function(0, b"", b"", 1),
                Assign(1, 1, 1, 0, 1, b"", 1),
                Result(1, Status.RESULT, b"", 1),
            ],
            3,
        ),
    ],
)
def test_payload_frames_are_those_that_the_commands_speak_of(commands, came):
    check_payloads(framed(*commands), [b""] * came)

    for wrong in {came - 1, came + 1} - {-1}:
        with pytest.raises(RemoteProtocolError, match=f"{wrong} came"):
            check_payloads(framed(*commands), [b""] * wrong)


def test_negative_counts_do_not_cancel_out():
    with pytest.raises(RemoteProtocolError, match="negative"):
        check_payloads(framed(Submit(1, 0, b"", -1), Submit(2, 0, b"", 2)), [b""])


# --- failures


def test_a_failure_comes_back():
    failure = Failure("task-failed", "ValueError", "why", "trace", b"pickle", ["first", "second"])

    assert decode_failure(encode_failure(failure)) == failure


@given(st.binary(max_size=64))
def test_a_failure_that_cannot_be_read_says_so(body):
    assert isinstance(decode_failure(body), Failure)


# --- fuzz

CONTROLS = [encode(framed(command)) for command in PEER + BROKER]
CONTROLS.append(encode(framed(*PEER)))


@st.composite
def mutated(draw):
    """Draw a good frame with some octets changed, removed, repeated or taken from another one."""
    control = bytearray(draw(st.sampled_from(CONTROLS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(control)))
        match draw(st.sampled_from(["set", "cut", "insert", "remove", "splice"])):
            case "set" if at < len(control):
                control[at] = draw(st.integers(0, 255))
            case "cut":
                del control[at:]
            case "insert":
                control[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "remove":
                del control[at : at + draw(st.integers(1, 8))]
            case "splice":
                control[at:] = draw(st.sampled_from(CONTROLS))[at:]
    return bytes(control)


def read_or_refuse(decode, control):
    try:
        frame = decode(control)
    except RemoteProtocolError as refused:
        error = refused
    else:
        error = None
    if error:
        assert error.message
        assert error.fatal is (error.code is Code.PROTOCOL_MISMATCH)
        return
    # What is accepted is wholly of the declared types: it can be said again.
    # As octets, since a NaN is not equal to itself.
    assert encode(decode(encode(frame))) == encode(frame)
    assert frame.protocol == PROTOCOL


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(control=mutated())
def test_a_mutated_frame_is_read_or_refused(control):
    read_or_refuse(decode_peer, control)
    read_or_refuse(decode_broker, control)


@settings(max_examples=200, deadline=None)
@given(control=st.binary(max_size=200))
def test_any_octets_are_refused(control):
    read_or_refuse(decode_peer, control)
    read_or_refuse(decode_broker, control)


STRANGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
TAGS = st.sampled_from([type(command).__struct_config__.tag for command in PEER + BROKER])


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    header=st.lists(STRANGE, min_size=4, max_size=4), tag=TAGS, fields=st.lists(STRANGE, max_size=5)
)
def test_any_fields_behind_a_good_tag_are_read_or_refused(header, tag, fields):
    for head in (header, [1, 1, 0, 0]):
        control = msgspec.msgpack.encode([PROTOCOL, *head, [[tag, *fields]]])
        read_or_refuse(decode_peer, control)
        read_or_refuse(decode_broker, control)
