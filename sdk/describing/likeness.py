"""Is a call with a key the same one as before? Digests that do not depend on the process.

Two equal pickles are the same arguments, but the same arguments have many pickles: one for each
order of a set or a dict, for each way in which equal parts are one object or two, and a class of
the user's own is another one in each process. So arguments are pickled once more, to be digested
alone. The rule that must not be broken: what is not equal has another digest, as far as its
classes say all of it when they are pickled.
"""

import io
import pickle
from collections.abc import Mapping
from hashlib import blake2b
from types import FunctionType, ModuleType
from typing import Any, Final

from sdk.describing.version import digest_of_words
from wire.codec import encode
from wire.parts import Call
from wire.payload import ByValuePickler, pickle_value

DIGEST_BYTES: Final = 16
# Instances of these, and of nothing derived from them, are digested part by part.
UNORDERED: Final = frozenset({dict, set, frozenset})
# Constants of which `repr` says everything.
PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})


class LikenessPickler(ByValuePickler):
    """Writes code by its name, what has no order as if it were sorted, and nothing twice."""

    def __init__(self, above: tuple[int, ...] = ()) -> None:
        """Pickle for digests; what is *above*, by its id, is looked into already."""
        self._file = io.BytesIO()
        self._buffers: list[memoryview] = []
        super().__init__(self._file, self._keep, set(), is_strict=False)
        # No memo: whether two equal parts are one object is chance.
        self.fast = True
        self._above = above

    def digest(self, value: Any) -> bytes:
        """Return what is equal for equal values; raises what the value's classes raise."""
        self._file.seek(0)
        self._file.truncate()
        self._buffers.clear()
        self.dump(value)
        return digest_of_parts([self._file.getvalue(), *self._buffers])

    def persistent_id(self, obj: Any) -> Any:
        """Return what stands for *obj*; None for what is pickled as it is."""
        kind = type(obj)
        if kind in PLAIN:
            return None
        if kind in UNORDERED:
            if id(obj) in self._above:
                return "above", len(self._above) - self._above.index(id(obj))
            return kind.__name__, self._sorted(obj)
        if kind is FunctionType or isinstance(obj, type):
            return kind.__name__, obj.__module__, name_of(obj)
        if kind is ModuleType:
            return "module", obj.__name__
        return None

    def _sorted(self, obj: Any) -> list[bytes]:
        inner: LikenessPickler | None = None
        found = []
        for part in obj.items() if type(obj) is dict else ((part,) for part in obj):
            if PLAIN.issuperset(map(type, part)):
                found.append(repr(part).encode("utf-8", "surrogatepass"))
                continue
            if inner is None:
                inner = LikenessPickler((*self._above, id(obj)))
            found.append(inner.digest(part))
        return sorted(found)

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of the pickle where it is in one piece; tell whether it stays there."""
        try:
            self._buffers.append(buffer.raw())
        except BufferError:
            return True
        return False


def digest_of_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Return what is equal for equal arguments, in each process.

    They can be pickled. Where it does not go so, as with a list that is a part of itself, they are
    told apart by their whole pickle, and may count as others in another process.
    """
    whole = args, dict(kwargs)
    try:
        return LikenessPickler().digest(whole)
    except Exception:  # noqa: BLE001 - user code runs in here, and it went well once.
        stream, buffers, _ = pickle_value(whole, out_of_band=True)
        return digest_of_parts([b"whole", stream, *buffers])


def digest_of_parts(parts: list[Any]) -> bytes:
    hashed = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        octets = memoryview(part).cast("B")
        hashed.update(octets.nbytes.to_bytes(8, "big"))
        hashed.update(octets)
    return hashed.digest()


def name_of(code: Any) -> str:
    """Return what tells a function or class from others: what has no name says what it does."""
    name: str = code.__qualname__
    return f"{name} {digest_of_words(code, DIGEST_BYTES)}" if "<" in name else name


def digest_of(call: Call, arguments: bytes) -> bytes:
    """Return what is equal for calls of the same function with the same digest of *arguments*.

    The code is not in it: a function, or a class, that was changed since is still the same one.
    """
    environment = call.environment
    place = ""
    if environment is not None:
        # Without the version, and whose it is: a second run of a script is to have the first's.
        is_named = environment.named is not None
        place = environment.id if is_named else ":".join(environment.id.split(":")[:2])
    hashed = blake2b(digest_size=DIGEST_BYTES)
    hashed.update(encode([call.name, call.method, place]))
    hashed.update(arguments)
    return hashed.digest()
