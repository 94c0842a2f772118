"""Bugs planted in one function: a line of it is another one while a test looks.

The code of the function is exchanged, so whoever has imported it has the bug as well.
"""

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from types import CodeType
from typing import Any, NamedTuple

import pytest

TESTS = Path(__file__).resolve().parents[1]
# A session inside another one says nothing, writes nothing and is timed by the outer one.
QUIET = ("-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "timeout=10")


class Bug(NamedTuple):
    """A function in which *old* stands as *new*, and the test that must fail then."""

    name: str
    function: Callable[..., Any] | property
    old: str
    new: str
    test: str


def mutated(function: Any, old: str, new: str) -> CodeType:
    """Return the code of *function* with the one place of *old* in it as *new*."""
    lines = dedent(inspect.getsource(function)).splitlines(keepends=True)
    while lines[0].startswith("@"):
        del lines[0]
    source, name = "".join(lines), function.__qualname__
    assert source.count(old) == 1, f"{name} has {source.count(old)} places with {old!r}"
    scope: dict[str, Any] = {}
    exec(compile(source.replace(old, new), name, "exec"), dict(function.__globals__), scope)
    code: CodeType = scope[function.__name__].__code__
    assert code.co_freevars == function.__code__.co_freevars, f"{name} is a closure"
    return code


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Let a function have a bug for a while."""
    function: Any = bug.function.fget if isinstance(bug.function, property) else bug.function
    former, function.__code__ = function.__code__, mutated(function, bug.old, bug.new)
    try:
        yield
    finally:
        function.__code__ = former


class Looking:
    """Plants each bug while its test runs, in an inner session, and notes how that ended."""

    def __init__(self, bugs: Iterable[Bug]) -> None:
        """Begin with nothing noticed."""
        self.by_test = {bug.test: bug for bug in bugs}
        # By the bug, what the first test said that failed; and whatever went wrong beside.
        self.noticed: dict[str, str] = {}
        self.wrong: list[str] = []

    def bug_of(self, nodeid: str) -> Bug:
        """Return what is planted in a test, whatever its parameters."""
        return self.by_test[nodeid.removeprefix("tests/").partition("[")[0]]

    def pytest_configure(self, config: pytest.Config) -> None:
        """Let Python word what failed.

        pytest parses the sources for that, in which Python 3.11 fails where the collector of
        garbage comes in between ("AST constructor recursion depth mismatch").
        """
        config.option.tbstyle = "native"

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Plant what the test of *item* is to notice."""
        with planted(self.bug_of(item.nodeid)):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take how a test ended."""
        if report.failed and report.when == "call":
            said = report.longreprtext.splitlines()
            # Behind the last line of the traceback, which is indented.
            at = max(n for n, line in enumerate(said) if line.startswith("  File "))
            last = next((one for one in said[at:] if one and not one.startswith(" ")), said[-1])
            self.noticed.setdefault(self.bug_of(report.nodeid).name, last)
        elif report.failed and report.when == "setup":
            self.wrong.append(report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take what could not be collected."""
        if report.failed:
            self.wrong.append(report.longreprtext)


def look(bugs: list[Bug]) -> Looking:
    """Run the tests of *bugs*, each with its bug planted, in this process and without a word."""
    looking = Looking(bugs)
    assert len(looking.by_test) == len(bugs), "a test looks for one bug"
    tests = [str(TESTS / test) for test in looking.by_test]
    root = ("-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(TESTS.parent))
    ended = pytest.main([*QUIET, *root, *tests], plugins=[looking])
    if ended not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        looking.wrong.append(f"the session ended with {ended!r}")
    return looking
