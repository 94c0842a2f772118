"""What the calls of one function have in common in an actor: where and how they run, and what in.

A call that has a copy of an environment for itself has a recipe of its own.
"""

from copy import copy
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, Final

from msgspec import structs

from actor.holding.room import ONE_SLOT
from wire.parts import Call, Environment, Token

if TYPE_CHECKING:
    from actor.running.code import Loaded

Buffer = bytes | bytearray | memoryview


class Way(IntEnum):
    """Where the calls of a recipe run, once that is known; beyond THREAD they have none."""

    UNKNOWN = 0
    THREAD = 1
    EVENT_LOOP = 2
    BATCH = 3


THREAD: Final = Way.THREAD


class Recipe:
    """What a TEMPLATE says, with the code that it names; what the calls of one function share."""

    __slots__ = (
        "blob",
        "call",
        "code",
        "environment",
        "is_common",
        "is_entry",
        "is_for_one",
        "is_named",
        "is_plain",
        "is_strict",
        "known",
        "loaded",
        "may_wait_ahead",
        "missing",
        "pool",
        "replica",
        "run_s",
        "satisfied_version",
        "slots",
        "takes_one_slot",
        "way",
    )

    def __init__(self, call: Call, *, code: Buffer | None, blob: Buffer | None) -> None:
        """Remember the code, also when the table forgets it; *missing* says what did not come."""
        self.call = call
        self.code, self.blob = code, blob
        self.slots = call.slots or ONE_SLOT
        self.takes_one_slot = self.slots == ONE_SLOT
        environment = call.environment
        self.is_plain = self.takes_one_slot and environment is None
        # Whether it enters its environment, and that is all.
        self.is_entry = not (call.function or call.method)
        # Whether it takes a limit that must never be exceeded.
        self.is_strict = False
        # The environment in whose replica its calls share a slot with others, as async ones do.
        self.environment, self.replica, self.is_named = environment, None, False
        # As what the broker knows that; whether each of its calls has a copy of its own.
        self.known, self.is_for_one = environment, False
        # Under which name its turns are counted.
        self.pool = ""
        if environment is not None:
            self.is_named = environment.named is not None
            self.is_for_one = environment.reuse.is_fresh
            self.pool = environment.pool
            self.replica = self._sharing_in(environment) if self.takes_one_slot else None
        # Whether its calls may wait beyond the slots, as the broker sees it too.
        self.may_wait_ahead = not (
            call.at_most_once or call.limits or call.slots or self.is_named or self.replica
        )
        self.is_common = self.is_plain and self.may_wait_ahead
        # How long it usually runs; unknown at first.
        self.run_s = inf
        # The function itself, once a run has unpickled it.
        self.loaded: Loaded | None = None
        self.way: Way = Way.UNKNOWN
        # The version of the labels that were last found to satisfy it.
        self.satisfied_version = 0
        self.missing = ""
        if call.function and code is None:
            self.missing = f"the code of {call.name!r} did not come"
        elif environment is not None and blob is None:
            self.missing = f"the code of environment {environment.name!r} did not come"
        elif not call.function and not environment:
            self.missing = f"template {call.name!r} names nothing to run"

    @staticmethod
    def _sharing_in(environment: Environment) -> str | None:
        is_among = environment.turns < environment.concurrency
        if environment.named is not None:
            is_among = environment.is_shared
        return environment.id if is_among else None

    def for_one(self, token: Token) -> "Recipe":
        """Return the same for the call with *token* alone, whose environment nobody else has."""
        environment = self.environment
        assert environment is not None
        own = structs.replace(environment, id=f"{environment.id} of {token[0]},{token[1]}")
        recipe = copy(self)
        recipe.environment, recipe.pool = own, own.pool
        recipe.call = structs.replace(self.call, environment=own)
        return recipe

    @classmethod
    def of(cls, call: Call, code: dict[bytes, Buffer]) -> "Recipe":
        """Join *call* with what the receiver has of the *code* that it names."""
        environment = call.environment
        blob = code.get(environment.blob) if environment is not None else None
        return cls(call, code=code.get(call.function), blob=blob)
