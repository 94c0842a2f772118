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
    """Return which modules need what stands in a package under their own in *order*."""
    levels = {package: level for level, package in enumerate(order)}
    return [
        f"{module} needs {needed}"
        for module, modules in needs.items()
        for needed in sorted(modules & needs.keys())
        if (level := levels.get(module.rpartition(".")[0])) is not None
        if levels.get(needed.rpartition(".")[0], len(order)) > level
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_of_a_package_import_each_other_in_a_circle(package):
    needs = needs_in(package)

    assert len(needs) > 5
    assert circle_among(needs) == []


def test_a_package_of_the_broker_needs_only_those_above_it_in_the_architecture():
    text = (tidy.ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    _, _, section = text.partition("\n## broker")
    listed = re.findall(r"^\| `(\w+)/` \| ", section.partition("\n## ")[0], flags=re.MULTILINE)
    needs = needs_in("broker")

    assert sorted(listed) == sorted({name.split(".")[1] for name in needs if name.count(".") > 1})
    assert upward(needs, [f"broker.{package}" for package in listed]) == []


def test_what_needs_a_package_under_its_own_is_found():
    needs = {"b.low.a": {"b.high.c", "json"}, "b.low.d": {"b.top"}, "b.high.c": {"b.low.d"}}
    needs["b.top"] = {"b.high.c"}

    found = upward(needs, ["b.low", "b.high"])

    assert found == ["b.low.a needs b.high.c", "b.low.d needs b.top"]


def test_a_circle_by_way_of_others_is_found():
    assert circle_among({"a": {"b"}, "b": {"c"}, "c": {"d", "json"}, "d": {"b"}}) == ["b", "c", "d"]


def test_what_only_a_checker_of_types_imports_closes_no_circle():
    source = (
        "if TYPE_CHECKING:\n    from broker.core import Broker\nelse:\n    from broker import log"
    )

    assert list(imported(ast.parse(source).body, "broker")) == ["broker", "broker.log"]
