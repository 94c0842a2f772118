"""Why a call ends in this process, without an outcome from the broker."""

from typing import Protocol

from sdk.calls.call import Owned
from sdk.errors import CLASSES, NotAuthorized, WarmslotError
from wire.codec import encode_failure
from wire.errors import Code
from wire.messages import Error, Result
from wire.parts import Failure, Status
from wire.reaching import why_not


class Way(Protocol):
    """The way to the broker: what is in it, "" for nothing, and whether the broker says so."""

    obstacle: str
    is_refused: bool


def overdue(owned: Owned, *, is_open: bool) -> Failure:
    """Say why a call was not sent within its schedule timeout."""
    why = "the broker cannot be reached"
    if is_open:
        why = "it waits in this process until the broker takes more of its tasks"
    message = f"not sent within {owned.plan.schedule_timeout_s:g} s: {why}"
    return Failure(Code.SCHEDULE_TIMEOUT, "", message)


def refused(error: Error | None) -> Failure:
    """Say why a client that has ended takes no call: by the broker's *error*, or its own will."""
    if error is None:
        return Failure(Code.CANCELED, "", "the client is closed")
    return Failure(error.code, "", error.message)


def why_silent(error: Error | None, way: Way, endpoint: str) -> str:
    """Say why no broker answers at *endpoint*, empty where that is not known.

    Raises what the broker has ended this client with, and NotAuthorized where it lets it not in.
    """
    if error is not None:
        raise CLASSES.get(error.code, WarmslotError)(f"{endpoint}: {error.message}")
    if way.is_refused:
        raise NotAuthorized(f"{endpoint}: {way.obstacle}")
    return way.obstacle or why_not(endpoint)


def too_large(owned: Owned, limit: int) -> Failure:
    """Say which part of a call is over the broker's limit."""
    what, size = "arguments of {} take", owned.size
    if owned.plan.size > limit:
        what, size = "code of {} takes", owned.plan.size
    return Failure(
        Code.PAYLOAD_TOO_LARGE,
        "",
        f"the {what.format(repr(owned.plan.call.name))} {size} octets, the broker allows {limit} "
        "(--payload-bytes-max); send a path or a key instead",
    )


def lost(owned: Owned) -> Failure:
    """Say of a call that was accepted why nobody knows its outcome."""
    return Failure(
        Code.OUTCOME_UNKNOWN,
        "",
        f"the broker accepted task {owned.plan.call.name!r} and does not have it any more: its"
        " outcome was received elsewhere, was kept longer than --outcome-ttl, or the journal is"
        " another one",
    )


def failed(task: int, failure: Failure) -> Result:
    """Make the outcome of a call that ends in this process."""
    return Result(task, Status.FAILURE, encode_failure(failure))
