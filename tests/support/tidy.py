"""The house rules, each a function from a path and its text to the complaints about it.

Rules read source as a tree and never import it, so they hold for a module that does not run here.
Paths are relative to the root of the repository, with slashes.
"""

import ast
import contextlib
import io
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

Rule = Callable[[str, str], list[str]]

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = ("wire", "broker", "actor", "sdk")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
WIDTH_MAX = 100
# Longer than that, and why.
LONG_FUNCTIONS = {
    ("tests/sim/profile.py", "draw"): "one line for each number that a seed draws, in its order",
}

# What a module below the key must not import.
LAYERS = {
    "wire": ("broker", "actor", "sdk", "tests", "bench", "examples"),
    "broker": ("actor", "sdk", "tests", "bench", "examples"),
    "sdk": ("broker", "actor", "tests", "bench", "examples"),
    "actor": ("broker", "tests", "bench", "examples"),
}

# The broker must not be able to run what a client sent. It imports any module of wire but four,
# so none of the others may bring pickling along either.
PICKLING = (
    "pickle",
    "cloudpickle",
    "dill",
    "wire.classes",
    "wire.culprit",
    "wire.payload",
    "wire.exceptions",
)
PAYLOADS = ("wire/classes.py", "wire/culprit.py", "wire/payload.py", "wire/exceptions.py")

# All of the broker but its shell, and what programs of all packages begin with.
SHELL = {
    "broker/__main__.py",
    "broker/cli.py",
    "broker/endpoint.py",
    "broker/keys.py",
    "broker/log.py",
    "broker/loop.py",
    "broker/descriptors.py",
    "broker/memory.py",
    "broker/disk/clocks.py",
    "broker/disk/journal.py",
    "broker/disk/losses.py",
    "broker/disk/opening.py",
    "wire/handshakes.py",
    "wire/keys.py",
    "wire/loading.py",
    "wire/ours.py",
    "wire/reaching.py",
    "wire/wakeup.py",
    "wire/printing.py",
    "wire/stream.py",
}
# Both cores of an actor and its host with their parts, and that of a client.
PURE = re.compile(
    r"actor/(?:core|invariants|supervision|(?:holding|granting|events)/\w+)\.py"
    r"|sdk/(?:core|calls/\w+)\.py"
)
IMPURE = (
    "asyncio",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "sqlite3",
    "structlog",
    "subprocess",
    "threading",
    "time",
    "uuid",
    "zmq",
)
# Pickling asks the interpreter where modules lie and guards its caches.
IMPURE_FOR_PAYLOAD = tuple(name for name in IMPURE if name not in {"os", "threading"})

# Folders of tools; a tree without git has no list of what to ignore.
NOT_SOURCE = re.compile(r"(?:^|/)(?:\.(?!ci/)[^/]*|__pycache__|build|dist)/")

COMMAND_LINE = ("cli.py", "__main__.py")
UNOWNED_WORK = re.compile(r"\b(?:TODO|FIXME)\b(?!.*#\d+)")
# As `zmq.auth` and czmq write it.
SECRET_KEY = re.compile(r"secret-key = \"[!-~]{40}\"")
PATH_OF_ONE_MACHINE = re.compile(r"(?<![\w.\-/])/(?:(?:work|root)/|(?:home|Users)/[a-z_])")


def tracked_texts() -> list[tuple[str, str]]:
    """List path and text of each file that git tracks, or of all in a tree without git."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
        listed = [path for path in listed if not NOT_SOURCE.search(path)]
    texts = []
    for path in sorted(listed):
        # A tracked file may be deleted in the work tree, and a picture has no text.
        with contextlib.suppress(OSError, UnicodeDecodeError):
            texts.append((path, (ROOT / path).read_text(encoding="utf-8")))
    return texts


def layers(path: str, text: str) -> list[str]:
    """Complain of an import against the direction of the layers."""
    banned = LAYERS.get(package_of(path), ())
    return complaints_of_imports(path, text, banned, "is a layer that this one must not know")


def pickling(path: str, text: str) -> list[str]:
    """Complain of an import that would let the broker unpickle."""
    if package_of(path) not in {"broker", "wire"} or path in PAYLOADS:
        return []
    return complaints_of_imports(path, text, PICKLING, "would let the broker unpickle")


def purity(path: str, text: str) -> list[str]:
    """Complain of a pure module that could read a clock, wait, or touch the world."""
    if not is_pure(path):
        return []
    banned = IMPURE_FOR_PAYLOAD if path in PAYLOADS else IMPURE
    found = complaints_of_imports(path, text, banned, "touches the world")
    for node in ast.walk(tree_of(text)):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                found.append(f"{path}:{node.lineno} waits, which only a loop may")
            case ast.Call(func=ast.Name(id="open" | "input" as name)):
                found.append(f"{path}:{node.lineno} {name}() touches the world")
    return found


def size(path: str, text: str) -> list[str]:
    """Complain of a long file or a long function."""
    found = []
    lines = len(text.splitlines())
    if lines > FILE_LINES_MAX:
        found.append(f"{path}:1 has {lines} lines, more than {FILE_LINES_MAX}")
    for node in ast.walk(tree_of(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX and (path, node.name) not in LONG_FUNCTIONS:
                found.append(
                    f"{path}:{node.lineno} {node.name} has {lines} lines,"
                    f" more than {FUNCTION_LINES_MAX}"
                )
    return found


def banned_code(path: str, text: str) -> list[str]:
    """Complain of a call or a clause with a better replacement."""
    tree = tree_of(text)
    meant = names_meant(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{path}:{node.lineno} bare except: name what is expected")
        if not isinstance(node, ast.Call):
            continue
        match dotted(node.func, meant):
            case "print" if package_of(path) in PACKAGES and not path.endswith(COMMAND_LINE):
                found.append(f"{path}:{node.lineno} print(): log an event instead")
            case "time.time":
                found.append(f"{path}:{node.lineno} time.time(): take time.monotonic() instead")
            case "time.sleep" if package_of(path) == "tests":
                found.append(f"{path}:{node.lineno} time.sleep(): wait for what should happen")
    return found


def unowned_work(path: str, text: str) -> list[str]:
    """Complain of a note about work to do that names no issue."""
    if not UNOWNED_WORK.search(text):
        return []  # To find the comments takes longer than all other rules.
    return [
        f"{path}:{token.start[0]} work to do without an issue number"
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and UNOWNED_WORK.search(token.string)
    ]


def docstring(path: str, text: str) -> list[str]:
    """Complain of a module that does not say what it is."""
    if package_of(path) in PACKAGES and not ast.get_docstring(tree_of(text)):
        return [f"{path}:1 has no docstring"]
    return []


def empty_init(path: str, text: str) -> list[str]:
    """Complain of logic in an *__init__.py*."""
    if PurePosixPath(path).name != "__init__.py":
        return []
    found = []
    for node in tree_of(text).body:
        match node:
            case ast.Import() | ast.ImportFrom():
                pass
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case ast.Assign(targets=[ast.Name(id="__all__")]):
                pass
            case _:
                found.append(f"{path}:{node.lineno} logic in __init__.py: give it a module")
    return found


def machine_path(path: str, text: str) -> list[str]:
    """Complain of a path that exists on one machine only; for files of any kind."""
    return [
        f"{path}:{number} has a path of one machine"
        for number, line in enumerate(text.splitlines(), start=1)
        if PATH_OF_ONE_MACHINE.search(line)
    ]


def secret(path: str, text: str) -> list[str]:
    """Complain of a secret key, which whoever has the project would have."""
    return [f"{path}: has a secret key"] if SECRET_KEY.search(text) else []


def prose_width(path: str, text: str) -> list[str]:
    """Documents are no wider than code where a line can be broken; README is short in lines."""
    if not path.endswith(".md") or path == "README.md":
        return []
    complaints, is_code = [], False
    for number, line in enumerate(text.splitlines(), start=1):
        is_fence = line.lstrip().startswith("```")
        is_code ^= is_fence
        head = line[: WIDTH_MAX + 1].strip()
        # Tables, indented code, and what a program printed.
        is_prose = not (is_code or is_fence or line.startswith(("|", "    ", ">")))
        # What stands between backticks stays on one line.
        can_break = " " in head and not head.count("`") % 2
        if is_prose and len(line) > WIDTH_MAX and can_break:
            complaints.append(f"{path}:{number}: a line of {len(line)} characters")
    return complaints


RULES_FOR_PYTHON: tuple[Rule, ...] = (
    layers,
    pickling,
    purity,
    size,
    banned_code,
    unowned_work,
    docstring,
    empty_init,
)
RULES_FOR_ALL: tuple[Rule, ...] = (machine_path, prose_width, secret)
RULES = RULES_FOR_PYTHON + RULES_FOR_ALL


def package_of(path: str) -> str:
    """Return the top-level folder of *path*, or nothing for a file at the root."""
    parts = PurePosixPath(path).parts
    return parts[0] if len(parts) > 1 else ""


def is_pure(path: str) -> bool:
    """Tell whether *path* takes the time as an argument and leaves the world to a loop."""
    if package_of(path) in {"wire", "broker"}:
        return path not in SHELL
    return bool(PURE.fullmatch(path))


@cache
def tree_of(text: str) -> ast.Module:
    """Parse *text* once for all rules."""
    return ast.parse(text)


def imports(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything imported, also inside functions and by name."""
    here = PurePosixPath(path).parent.parts
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield node.lineno, name.name
            case ast.ImportFrom(module=module, names=names, level=level):
                above = here[: len(here) - level + 1] if level else ()
                origin = ".".join((*above, module) if module else above)
                for name in names:
                    yield node.lineno, f"{origin}.{name.name}"
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def complaints_of_imports(path: str, text: str, banned: tuple[str, ...], why: str) -> list[str]:
    """Complain once a line and banned module; what lies inside a banned module is banned."""
    found = {
        (line, module): f"{path}:{line} imports {module}, which {why}"
        for line, name in imports(path, tree_of(text))
        for module in banned
        if name == module or name.startswith(f"{module}.")
    }
    return list(found.values())


def names_meant(tree: ast.Module) -> dict[str, str]:
    """Map each imported name to what it stands for, so that an alias hides nothing."""
    meant: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                meant |= {name.asname: name.name for name in names if name.asname}
            case ast.ImportFrom(module=str(module), names=names, level=0):
                meant |= {name.asname or name.name: f"{module}.{name.name}" for name in names}
    return meant


def dotted(node: ast.expr, meant: dict[str, str]) -> str:
    """Return the full name of what is called, or nothing when it has none."""
    match node:
        case ast.Name(id=name):
            return meant.get(name, name)
        case ast.Attribute(value=value, attr=attr):
            return f"{dotted(value, meant)}.{attr}"
    return ""
