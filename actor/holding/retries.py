"""Which failures may be tried again: judged here, since only the actor has the exception.

Types are told apart by their names, also those of their bases: a class that travels by value is
another object in each process.
"""

from typing import Final

from sdk.describing.options import name_of_type
from sdk.errors import NonRetryable, TaskCanceled, TaskTimeout
from wire.parts import Call

NEVER: Final = (NonRetryable, TaskCanceled)


def is_retriable(error: BaseException, call: Call) -> bool:
    """Tell whether *call* wants to be tried again after *error*."""
    return bool(call.retries) and not isinstance(error, NEVER) and covers(type(error), call)


def is_timeout_retriable(call: Call) -> bool:
    """Tell whether *call* wants to be tried again after its time was over."""
    return bool(call.retries) and covers(TaskTimeout, call)


def covers(kind: type[BaseException], call: Call) -> bool:
    """Tell whether *kind* is among those that *call* names; without any, every Exception is."""
    if not call.retry_on:
        return issubclass(kind, Exception)
    return any(name_of_type(base) in call.retry_on for base in kind.__mro__)
