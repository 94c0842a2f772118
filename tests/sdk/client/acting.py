"""What the calls of a client call, and a broker that does what their first argument says."""

from typing import NamedTuple

from tests.support.deployment import DEADLINE_S
from wire.codec import encode_failure
from wire.errors import Code
from wire.exceptions import dump_exception
from wire.messages import Result
from wire.parts import Failure, Status

TIMEOUT_S = DEADLINE_S


class Pair(NamedTuple):
    one: object
    two: object


def identity(value=None):
    return value


def taking(*values, x=None, lock=None, last=None):
    return values, x, lock, last


def later(call, args, kwargs):
    return None


def act(call, args, kwargs):
    """Do what the first argument says."""
    match args if args and isinstance(args[0], str) else ():
        case ("later", *_):
            return None
        case ("raise", error):
            return Result(0, Status.FAILURE, encode_failure(dump_exception(error)))
        case ("fail", code):
            return Result(0, Status.FAILURE, encode_failure(Failure(code, "", "because")))
        case ("cancel",):
            return Result(0, Status.CANCELED, encode_failure(Failure(Code.CANCELED, "", "admin")))
        case ("args", *_):
            return ((args[1:], kwargs),)
    return (args[0] if args else None,)
