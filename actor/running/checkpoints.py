"""What a named actor says of its state after each call, and how it begins from that again.

Code of a user runs in here. The rule that must not be broken: what a call changed is in the frame
of its outcome, so either both are known or neither.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from actor.holding.mailbox import Assignment
from actor.holding.recipe import Buffer
from wire import exceptions, payload
from wire.codec import encode_failure
from wire.errors import Code
from wire.parts import Failure, Status

# What a broker is to keep for one actor.
CHECKPOINT_BYTES_MAX: Final = 16 * 2**20

Ending = tuple[Status, Buffer, Any]


class Checkpoints:
    """The hooks of one named actor, if it has them."""

    __slots__ = ("_instance", "_take", "lock", "name")

    def __init__(self, instance: Any, name: str, take: Callable[[], Any]) -> None:
        """Ask *take*, its `checkpoint`."""
        self._instance = instance
        self._take = take
        self.name = name
        # Held from taking a checkpoint until its outcome is handed over, so that they keep order.
        self.lock = threading.Lock()

    @classmethod
    def of(cls, instance: Any, name: str) -> "Checkpoints | None":
        """Return the hooks of *instance*, None where it says nothing of its state."""
        take = getattr(instance, "checkpoint", None)
        return None if take is None else cls(instance, name, take)

    def hand_over(
        self,
        finish: Callable[..., None],
        assignment: Assignment,
        ending: Ending,
        began: float,
        post: Callable[..., None],
    ) -> None:
        """Hand over the outcome of a call with what it left of the state."""
        with self.lock:
            (status, body, frames), checkpoint = self.take(ending)
            run_s = time.monotonic() - began
            post(finish, assignment, status, body, frames, run_s, checkpoint)

    def take(self, ending: Ending) -> tuple[Ending, Buffer | None]:
        """Return the outcome of a call, and the state after it; a failure where there is none."""
        try:
            octets = payload.dump_code(self._take())[0]
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises.
            failure = exceptions.dump_exception(error, Code.TASK_FAILED)
            failure = Failure(
                failure.code,
                failure.type,
                f"the call has run, but checkpoint() of {self.name} failed: {failure.message}",
                failure.traceback,
            )
            return (Status.FAILURE, encode_failure(failure), ()), None
        if len(octets) > CHECKPOINT_BYTES_MAX:
            failure = Failure(
                Code.PAYLOAD_TOO_LARGE,
                "PayloadTooLarge",
                f"the call has run, but the checkpoint of {self.name} takes {len(octets)} octets,"
                f" {CHECKPOINT_BYTES_MAX} are allowed; keep a path or a key in it instead",
            )
            return (Status.FAILURE, encode_failure(failure), ()), None
        return ending, octets

    def restore(self, checkpoint: Buffer, call: Callable[..., Any]) -> None:
        """Begin from *checkpoint*; raise what the user's code raises."""
        call(lambda: self._instance.restore(payload.load(checkpoint, ())))
