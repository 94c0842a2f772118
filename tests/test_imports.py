"""No module of a package needs itself by way of others: each package reads from the bottom up."""

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from tests.support import tidy

PACKAGES = ("wire", "broker", "actor", "sdk")


def imported(statements: list[ast.stmt], package: str) -> Iterator[str]:
    """Yield the modules of *package* that these statements import when they are run.

    What is imported from a module comes with it, as if it were a module: nobody else has its name.
    """
    for statement in statements:
        match statement:
            case ast.ImportFrom(module=str(module), names=names):
                if module == package or module.startswith(f"{package}."):
                    yield module
                    yield from (f"{module}.{alias.name}" for alias in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                yield from imported(orelse, package)
            case ast.If(body=body, orelse=orelse):
                yield from imported(body + orelse, package)


def needs_in(package: str) -> dict[str, set[str]]:
    """Return by the dotted name of each module of *package* what it imports from there."""
    return {
        ".".join(PurePosixPath(path).with_suffix("").parts): set(
            imported(ast.parse(text).body, package)
        )
        for path, text in tidy.tracked_texts()
        if path.startswith(f"{package}/") and path.endswith(".py")
    }


def circle_among(needs: dict[str, set[str]]) -> list[str]:
    """Return modules each of which needs the next, and the last one the first; empty for none."""
    left = {module: needed & needs.keys() for module, needed in needs.items()}
    while free := {module for module, needed in left.items() if not needed}:
        left = {module: needed - free for module, needed in left.items() if module not in free}
    if not left:
        return []
    path = [next(iter(sorted(left)))]
    while (following := min(left[path[-1]])) not in path:
        path.append(following)
    return path[path.index(following) :]


def upward(needs: dict[str, set[str]], order: list[str]) -> list[str]:
    """Return which modules of packages in *order*, or in it themselves, need what stands under it.

    What is not in *order* stands under all of it, and may need anything.
    """
    levels = {place: level for level, place in enumerate(order)}

    def level_of(module: str) -> int:
        own = levels.get(module, len(order))
        return levels.get(module.rpartition(".")[0], own)

    return [
        f"{module} needs {needed}"
        for module, modules in needs.items()
        for needed in sorted(modules & needs.keys())
        if level_of(needed) > level_of(module)
    ]


def order_in(architecture: str, package: str) -> list[str]:
    """Return packages and modules of *package* in the order of the first table of its section."""
    _, _, section = architecture.partition(f"\n## {package}:")
    rows = section[section.index("\n|") : section.index("|\n\n")]
    cells = re.findall(r"^\| (`.*?`) \| ", rows, flags=re.MULTILINE)
    return [
        f"{package}.{place.removesuffix('/').removesuffix('.py')}"
        for cell in cells
        for place in re.findall(r"`(.*?)`", cell)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_of_a_package_import_each_other_in_a_circle(package):
    needs = needs_in(package)

    assert len(needs) > 5
    assert circle_among(needs) == []


@pytest.mark.parametrize("package", ["broker", "actor", "sdk"])
def test_a_package_needs_only_those_above_it_in_the_architecture(package):
    order = order_in((tidy.ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), package)
    needs = needs_in(package)

    inner = {name.rpartition(".")[0] for name in needs} - {package}
    assert inner | set(order) & needs.keys() == set(order)
    assert upward(needs, order) == []


def test_what_needs_a_package_under_its_own_is_found():
    needs = {"b.low.a": {"b.high.c", "json"}, "b.low.d": {"b.top"}, "b.high.c": {"b.low.d"}}
    needs["b.top"] = {"b.high.c"}

    found = upward(needs, ["b.low", "b.high"])

    assert found == ["b.low.a needs b.high.c", "b.low.d needs b.top"]


def test_a_file_that_is_listed_by_itself_has_a_place_in_the_order():
    rows = "| `low/` | `x.py` |\n| `one.py`, `high/` | it |\n\n| `no.py` | it |"
    text = f"\n## b: it\n\n| place | |\n|---|---|\n{rows}"
    needs = {"b.one": {"b.high.c", "b.low.a"}, "b.low.a": {"b.one"}, "b.high.c": {"b.one"}}

    order = order_in(text, "b")

    assert order == ["b.low", "b.one", "b.high"]
    assert upward(needs, order) == ["b.one needs b.high.c", "b.low.a needs b.one"]


def test_a_circle_by_way_of_others_is_found():
    assert circle_among({"a": {"b"}, "b": {"c"}, "c": {"d", "json"}, "d": {"b"}}) == ["b", "c", "d"]


def test_what_only_a_checker_of_types_imports_closes_no_circle():
    source = (
        "if TYPE_CHECKING:\n    from broker.core import Broker\nelse:\n    from broker import log"
    )

    assert list(imported(ast.parse(source).body, "broker")) == ["broker", "broker.log"]
