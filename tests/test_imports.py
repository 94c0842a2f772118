"""No module of a package needs itself by way of others: each package reads from the bottom up."""

import ast
from collections.abc import Iterator

import pytest

from tests.support import tidy

PACKAGES = ("wire", "broker", "actor", "sdk")


def imported(statements: list[ast.stmt], package: str) -> Iterator[str]:
    """Yield the modules of *package* that these statements import when they are run."""
    for statement in statements:
        match statement:
            case ast.ImportFrom(module=str(module), names=names):
                if module == package:
                    yield from (alias.name for alias in names)
                elif module.startswith(f"{package}."):
                    yield module.split(".")[1]
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                yield from imported(orelse, package)
            case ast.If(body=body, orelse=orelse):
                yield from imported(body + orelse, package)


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


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_of_a_package_import_each_other_in_a_circle(package):
    needs = {}
    for path, text in tidy.tracked_texts():
        folder, _, name = path.rpartition("/")
        if folder == package and name.endswith(".py"):
            needs[name.removesuffix(".py")] = set(imported(ast.parse(text).body, package))

    assert len(needs) > 5
    assert circle_among(needs) == []


def test_a_circle_by_way_of_others_is_found():
    assert circle_among({"a": {"b"}, "b": {"c"}, "c": {"d", "json"}, "d": {"b"}}) == ["b", "c", "d"]


def test_what_only_a_checker_of_types_imports_closes_no_circle():
    source = (
        "if TYPE_CHECKING:\n    from broker.core import Broker\nelse:\n    from broker import log"
    )

    assert list(imported(ast.parse(source).body, "broker")) == ["log"]
