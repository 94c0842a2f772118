"""Frames to bytes and back, and the limits that are checked before anything is touched.

Decoding raises RemoteProtocolError and nothing else, whatever the bytes are. The codec never copies
a payload: large parts travel as ZeroMQ frames of their own behind the control frame, and each
command says how many of them are its own.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from wire.errors import Code, RemoteProtocolError
from wire.messages import (
    PROTOCOL,
    Assign,
    BrokerFrame,
    Frame,
    Function,
    Outcome,
    PeerFrame,
    Resides,
    Restore,
    Result,
    Submit,
)
from wire.parts import Failure, Part

CONTROL_BYTES_MAX: Final = 16 * 2**20
TEMPLATE_BYTES_MAX: Final = 2**20
PAYLOAD_FRAMES_MAX: Final = 65_536
# A body up to this size travels inside its command: copying it is cheaper than a frame of its own.
INLINE_BYTES_MAX: Final = 4_096
# A frame from Python below this size is copied by pyzmq anyway, so a buffer below it stays in the
# pickle.
BUFFER_BYTES_MIN: Final = 16_384

CARRIERS: Final = frozenset({Submit, Assign, Outcome, Result, Function, Resides, Restore})

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_decode_peer = msgspec.msgpack.Decoder(PeerFrame).decode
_decode_broker = msgspec.msgpack.Decoder(BrokerFrame).decode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode


class _Coded(Part, frozen=True):
    """The beginning of a Failure; what stands behind it is skipped, and not copied."""

    code: str


_decode_code = msgspec.msgpack.Decoder(_Coded).decode


def decode_peer(control: bytes | memoryview) -> Frame[Any]:
    """Read what a client, an actor or a host says to the broker."""
    try:
        frame = _decode_peer(control)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise explain_bad(control, error) from None
    if frame.protocol != PROTOCOL:
        raise mismatch(frame.protocol)
    return frame


def decode_broker(control: bytes | memoryview) -> Frame[Any]:
    """Read what the broker says."""
    try:
        frame = _decode_broker(control)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise explain_bad(control, error) from None
    if frame.protocol != PROTOCOL:
        raise mismatch(frame.protocol)
    return frame


def check_payloads(frame: Frame[Any], payloads: Sequence[object]) -> None:
    """Raise unless the payload frames that came are those that the commands speak of."""
    told = 0
    for command in frame.commands:
        if type(command) in CARRIERS:
            if command.frames < 0:
                raise RemoteProtocolError(Code.BAD_FRAME, f"negative frame count {command.frames}")
            told += command.frames
    if told != len(payloads):
        raise RemoteProtocolError(
            Code.BAD_FRAME,
            f"the commands speak of {told} payload frames, {len(payloads)} came",
        )


def explain_bad(control: bytes | memoryview, error: Exception) -> RemoteProtocolError:
    """Tell another version of the protocol from garbage."""
    try:
        loose = msgspec.msgpack.decode(control)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, ValueError):
        return RemoteProtocolError(Code.BAD_FRAME, f"not a frame of this protocol: {error}")
    if isinstance(loose, list) and loose and type(loose[0]) is int and loose[0] != PROTOCOL:
        return mismatch(loose[0])
    return RemoteProtocolError(Code.BAD_FRAME, f"not a frame of this protocol: {error}")


def mismatch(theirs: int) -> RemoteProtocolError:
    """Say which versions are spoken. Neither end can read the other, so each finds out itself."""
    return RemoteProtocolError(
        Code.PROTOCOL_MISMATCH,
        f"the other end speaks protocol {theirs}, this one {PROTOCOL}:"
        " use releases of warmslot that speak the same",
        fatal=True,
    )


def encode_failure(failure: Failure) -> bytes:
    """Make the body of an outcome that is not a result."""
    return encode(failure)


def read_failure(body: bytes | bytearray | memoryview) -> Failure | None:
    """Read the body of an outcome that is not a result; None when it cannot be read."""
    try:
        return _decode_failure(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def read_code(body: bytes | bytearray | memoryview) -> str:
    """Read no more than the code of an outcome that is not a result, however much it brings."""
    try:
        return _decode_code(body).code
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Code.TASK_FAILED


def decode_failure(body: bytes | memoryview) -> Failure:
    """Read the body of an outcome that is not a result; an unreadable one says so itself."""
    try:
        return _decode_failure(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Failure(Code.TASK_FAILED, "", f"the failure could not be read: {error}")
