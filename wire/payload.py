"""Python objects to bytes and back: arguments, results, code.

The C pickler does what it can; cloudpickle does what refers to the user's own modules, which travel
by value, so that a persistent actor never runs yesterday's helpers. Nothing here decides where
bytes go. The rule that must not be broken: an empty body means that the first frame is the pickle,
so a pickle is never empty and `load` needs no flag.
"""

import functools
import hashlib
import io
import os
import pickle
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    ModuleType,
)
from typing import Any, Final

import cloudpickle
from msgspec import Struct

from wire.classes import as_ours, is_type_name, name_again
from wire.codec import BUFFER_BYTES_MIN, INLINE_BYTES_MAX
from wire.ours import is_ours
from wire.texts import sendable
from wire.wrapped import (
    alias_again,
    dispatcher_again,
    is_alias,
    is_dispatcher,
    is_pickled_by_name,
    is_schema,
    object_again,
    schema_again,
)

PICKLE_PROTOCOL: Final = 5
# What is beyond stays in the pickle: a message must not have more frames than the protocol allows.
BUFFERS_MAX: Final = 1_024
HASH_BYTES: Final = 16
# On every peer as ours are, also in a folder that was filled by `pip install --target`.
REQUIRED: Final = frozenset({"cloudpickle", "msgspec", "structlog", "zmq"})
# The opcode without which a pickle of this protocol refers to no global.
STACK_GLOBAL: Final = b"\x93"
HIDDEN_FILE: Final = "<dynamic-code>"
# A by-value pickle builds functions and classes with these.
BUILDERS: Final = b"cloudpickle.cloudpickle"

PLAIN: Final = (type(None), bool, int, float, complex, str, bytes)
BASIC: Final = (FunctionType, BuiltinFunctionType, type, ModuleType, *PLAIN)

# Their pickles hold neither code nor buffers.
ATOMS: Final = frozenset({type(None), bool, int, float})

LOCKS: Final[dict[type, Callable[[], object]]] = {
    type(make()): make for make in (threading.Lock, threading.RLock)
}

Buffer = bytes | bytearray | memoryview
# What `functools.lru_cache` makes of a function.
Cached: Final = functools._lru_cache_wrapper  # noqa: SLF001


class PayloadError(Exception):
    """A value cannot be pickled; the message names the part that cannot and why."""


class Unpicklable(Exception):
    """Raise from `__reduce__`: neither pickle nor cloudpickle is to try any further."""


class Dumped(Struct, frozen=True, gc=False):
    """A value as body and frames; not portable when it holds code of this Python version."""

    body: bytes
    frames: list[Buffer]
    is_portable: bool

    @property
    def size(self) -> int:
        """Count the octets."""
        return len(self.body) + sum(size_of(frame) for frame in self.frames)


def size_of(frame: Buffer) -> int:
    """Count the octets of one frame."""
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


def dump(value: object) -> tuple[bytes, list[Buffer]]:
    """Pickle *value* into body and frames of a command; raise PayloadError when it cannot be."""
    if type(value) in ATOMS:
        stream = pickle.dumps(value, PICKLE_PROTOCOL)
        if len(stream) <= INLINE_BYTES_MAX:
            return stream, []
    dumped = dump_value(value)
    return dumped.body, dumped.frames


def dump_value(value: object) -> Dumped:
    """Pickle *value* like `dump`, and tell whether any Python version could read it."""
    stream, buffers, is_portable = pickle_value(value, out_of_band=True)
    if len(stream) > INLINE_BYTES_MAX:
        return Dumped(b"", [stream, *buffers], is_portable)
    return Dumped(stream, buffers, is_portable)


def dump_code(value: object) -> tuple[bytes, bool]:
    """Pickle a function or class into one stream, and tell whether it is portable."""
    stream, _, is_portable = pickle_value(value, out_of_band=False)
    return stream, is_portable


def load(body: Buffer, frames: Sequence[Buffer]) -> object:
    """Rebuild what `dump` made. Arrays share memory with *frames*."""
    if not frames:
        return pickle.loads(body)  # noqa: S301
    if len(body):
        return pickle.loads(body, buffers=frames)  # noqa: S301
    return pickle.loads(frames[0], buffers=frames[1:])  # noqa: S301


def load_function(stream: Buffer) -> Any:
    """Rebuild what `dump_code` made: a function, or the `(class, parameters)` of an environment."""
    return pickle.loads(stream)  # noqa: S301


def digest(stream: Buffer) -> bytes:
    """Name a stream by its octets."""
    return hashlib.blake2b(stream, digest_size=HASH_BYTES).digest()


def pickle_value(value: object, *, out_of_band: bool) -> tuple[bytes, list[Buffer], bool]:
    """Return stream, buffers and whether they are portable."""
    buffers: list[Buffer] = []
    keep = _collector(buffers) if out_of_band else None
    try:
        stream = pickle.dumps(value, PICKLE_PROTOCOL, buffer_callback=keep)
        if STACK_GLOBAL not in stream or not _may_need_value(stream):
            return stream, buffers, True
    except Unpicklable as error:
        raise PayloadError(str(error)) from error
    except Exception:  # noqa: BLE001, S110 - user code runs in here; cloudpickle has the last word.
        pass
    buffers.clear()
    try:
        stream = _pickle_by_value(value, keep, buffers)
    except Unpicklable as error:
        raise PayloadError(str(error)) from error
    except Exception as error:
        raise PayloadError(f"{describe(value)} cannot be pickled: {told(error)}") from error
    return stream, buffers, BUILDERS not in stream


def _collector(buffers: list[Buffer]) -> Callable[[pickle.PickleBuffer], bool]:
    """Return a callback that takes large contiguous buffers out of the pickle."""

    def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:
            return True
        if raw.nbytes < BUFFER_BYTES_MIN or len(buffers) >= BUFFERS_MAX:
            return True
        buffers.append(raw)
        return False

    return keep_in_band


# --- whose modules


class UserModules:
    """Knows which of the imported modules are the user's own: not installed and not of Python.

    Modules are judged once; only what was imported since is looked at again.
    """

    def __init__(self) -> None:
        """Begin with nothing judged."""
        self._lock = threading.Lock()
        self._seen = 0
        self._last = ""
        self._judged: dict[str, tuple[ModuleType, bool]] = {}
        self._users: set[int] = set()
        self.modules: tuple[ModuleType, ...] = ()
        self.needles: tuple[bytes, ...] = (b"__main__",)

    def has(self, module: ModuleType) -> bool:
        """Tell whether *module* is one of them."""
        return id(module) in self._users

    def refresh(self) -> None:
        """Judge what was imported since the last call."""
        last = next(reversed(sys.modules))
        if len(sys.modules) == self._seen and last == self._last:
            return
        with self._lock:
            users: dict[str, ModuleType] = {}
            imported: dict[str, object] = {**sys.modules}
            for name, module in imported.items():
                if not isinstance(module, ModuleType):
                    continue
                judged = self._judged.get(name)
                if judged is None or judged[0] is not module:
                    judged = self._judged[name] = (module, is_user_module(name, module))
                if judged[1]:
                    users[name] = module
            # Only a module that is known under its own name can be registered by it. One that has
            # a second name, as `__main__` has in a child of multiprocessing, is still one.
            own = (m for m in users.values() if imported.get(m.__name__) is m)
            self.modules = tuple(dict.fromkeys(own))
            names = {"__main__", *users, *(m.__name__ for m in users.values())}
            self._users = {id(module) for module in self.modules}
            self.needles = tuple(name.encode() for name in sorted(names))
            self._seen, self._last = len(sys.modules), last


def is_user_module(name: str, module: ModuleType) -> bool:
    """Tell whether *module* is neither Python's, nor installed, nor ours."""
    top = name.partition(".")[0]
    if name in ("__main__", "__mp_main__"):
        return True
    is_everywhere = top in REQUIRED or is_ours(top, getattr(sys.modules.get(top), "__file__", None))
    if is_everywhere or top in sys.builtin_module_names:
        return False
    for candidate in (module, sys.modules.get(top)):
        path = getattr(candidate, "__file__", None)
        if isinstance(path, str):
            return not is_installed(path)
        origin = getattr(getattr(candidate, "__spec__", None), "origin", None)
        if origin in ("built-in", "frozen"):
            return False
        folders = list(getattr(candidate, "__path__", None) or ())
        if folders:
            return not all(is_installed(str(folder)) for folder in folders)
    return True


def _installed_roots() -> tuple[str, ...]:
    """List the folders of Python's own library and of what is installed beside it."""
    keys = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(key) for key in keys} - {None}
    folders |= {os.path.realpath(folder) for folder in folders}
    return tuple(folder.rstrip(os.sep) + os.sep for folder in folders)


INSTALLED_ROOTS: Final = _installed_roots()


def is_installed(path: str) -> bool:
    """Tell whether *path* belongs to Python or to an installed distribution."""
    parts = path.replace("\\", "/").split("/")
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return (path + os.sep).startswith(INSTALLED_ROOTS)


user_modules = UserModules()
# cloudpickle's registry is of the process: the user's other libraries must not find our entries in
# it.
_registry = threading.RLock()


@contextmanager
def by_value() -> Iterator[None]:
    """Let cloudpickle take the user's modules by value for the length of the block."""
    with _registry:
        user_modules.refresh()
        known = cloudpickle.list_registry_pickle_by_value()
        fresh = [m for m in user_modules.modules if m.__name__ not in known]
        for module in fresh:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in fresh:
                cloudpickle.unregister_pickle_by_value(module)


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Takes of a user's module what its code could name, and nothing that only happens to be there.

    Functions, classes, modules and plain constants are taken all, since code may look them up by a
    name that it makes; other objects (a connection, an array) only when some code that travels
    along has their name. With *is_strict* that goes for all.
    """

    def __init__(
        self,
        file: io.BytesIO,
        keep: Callable[[pickle.PickleBuffer], bool] | None,
        names: set[str],
        *,
        is_strict: bool,
    ) -> None:
        """Begin with the *names* that an earlier attempt has met."""
        super().__init__(file, PICKLE_PROTOCOL, buffer_callback=keep)
        self.names = set(names)
        self.left_out: set[str] = set()
        self._is_strict = is_strict

    def reducer_override(self, obj: Any) -> Any:
        """Take modules and code our way, and note what functions name."""
        if type(obj) is FunctionType:
            if is_dispatcher(obj) and _is_of_users(obj):
                return dispatcher_again(obj)
            self.names |= names_in(obj.__code__)
        elif type(obj) is ModuleType and user_modules.has(obj):
            state = {
                name: part
                for name, part in vars(obj).items()
                if not name.startswith("__")
                and (name in self.names or (not self._is_strict and is_basic(part)))
            }
            self.left_out |= vars(obj).keys() - state.keys()
            # The module is known before its contents, which may refer to it.
            return ModuleType, (obj.__name__,), state, None, None, fill_module
        elif type(obj) is Cached and _is_of_users(obj.__wrapped__):
            # It would travel by its name, which nobody has there.
            return cached, (obj.__wrapped__, obj.cache_parameters())
        elif is_type_name(obj) and _is_of_users(obj):
            return name_again(obj)
        elif type(obj) is functools.cached_property:
            # Before Python 3.12 there is a lock in it.
            return cached_property, (obj.func, obj.attrname)
        elif is_alias(obj) and _is_of_users(obj):
            return alias_again(obj)
        elif is_pickled_by_name(obj) and _is_of_users(obj):
            return object_again(obj)
        elif is_schema(obj):
            return schema_again(obj, PICKLE_PROTOCOL)
        elif type(obj) is CodeType:
            # cloudpickle 3.1.3 hides in which file code stands, and so does every traceback then.
            make, parts = self.dispatch_table[CodeType](obj)
            return make, tuple(obj.co_filename if part == HIDDEN_FILE else part for part in parts)
        return as_ours(obj, super().reducer_override(obj))


class SparingPickler(ByValuePickler):
    """Writes a text in the place of what cannot be pickled, and for a lock one that is free."""

    def reducer_override(self, obj: Any) -> Any:
        """Ask each object for what it is made from, as the pickler does itself."""
        reduced = super().reducer_override(obj)
        if reduced is not NotImplemented or isinstance(obj, type | FunctionType):
            return reduced
        try:
            if type(obj) in LOCKS:
                return LOCKS[type(obj)], ()
            if isinstance(obj, BuiltinFunctionType) and type(obj.__self__) not in LOCKS:
                pickle.dumps(obj, PICKLE_PROTOCOL)  # A text would not have this method.
            reduce = self.dispatch_table.get(type(obj))
            return obj.__reduce_ex__(PICKLE_PROTOCOL) if reduce is None else reduce(obj)
        except Exception:  # noqa: BLE001 - the user's class may raise anything.
            return str, (repr(obj),)


def pickle_in_part(value: object) -> bytes:
    """Pickle what can be pickled of *value*; raises where that cannot be told."""
    return _pickle_by_value(value, None, [], SparingPickler)


def _is_of_users(function: Any) -> bool:
    """Tell whether a function cannot be found by its name where it is not ours."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    is_local = "<locals>" in getattr(function, "__qualname__", "")
    return module is None or is_local or user_modules.has(module)


def cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Wrap a function of the user's in a cache of its own; called by the unpickler."""
    return functools.lru_cache(**parameters)(function)


def cached_property(function: Callable[[Any], Any], name: str) -> Any:
    """Make a property that keeps what it finds; called by the unpickler."""
    made = functools.cached_property(function)
    made.attrname = name
    return made


def fill_module(module: ModuleType, state: dict[str, Any]) -> None:
    """Put what has travelled into a module; called by the unpickler."""
    vars(module).update(state)


@lru_cache(4096)
def names_in(code: CodeType) -> frozenset[str]:
    """Return the names that *code* and the code inside it look up in globals and objects."""
    inner = (names_in(part) for part in code.co_consts if isinstance(part, CodeType))
    return frozenset(code.co_names).union(*inner)


def is_basic(value: object) -> bool:
    """Tell whether an attribute of a module is code or a plain constant."""
    return isinstance(value, BASIC) and not (
        isinstance(value, str | bytes) and len(value) > INLINE_BYTES_MAX
    )


def _pickle_by_value(
    value: object,
    keep: Callable[[pickle.PickleBuffer], bool] | None,
    buffers: list[Buffer],
    kind: type[ByValuePickler] = ByValuePickler,
) -> bytes:
    """Pickle with the user's modules by value; raises whatever the value's classes raise."""
    names: set[str] = set()
    is_strict = False
    with by_value():
        while True:
            file = io.BytesIO()
            buffers.clear()
            pickler = kind(file, keep, names, is_strict=is_strict)
            try:
                pickler.dump(value)
            except Unpicklable:
                raise
            except Exception:
                # Something may be in the way that only code asks for which nobody calls.
                if is_strict or not pickler.left_out | pickler.names:
                    raise
                is_strict, names = True, set()
                continue
            # Code that was met late may name what was left out early.
            if not pickler.left_out & (pickler.names - names):
                return file.getvalue()
            names = pickler.names


def _may_need_value(stream: bytes) -> bool:
    """Tell whether a fast pickle could refer to the user's modules; yes does no harm."""
    user_modules.refresh()
    return any(needle in stream for needle in user_modules.needles)


def describe(value: object) -> str:
    """Name a value by its type, and by its name where it has one."""
    kind, name = type(value).__qualname__, getattr(value, "__qualname__", None)
    return f"the {kind} {name!r}" if isinstance(name, str) else f"a value of type {kind}"


def told(error: BaseException) -> str:
    """Tell type and message of *error* in one line."""
    text = " ".join(str(error).split())
    return sendable(f"{type(error).__name__}: {text}" if text else type(error).__name__)
