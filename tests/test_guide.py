"""Each piece of code in the guide runs, and each command in the documents is one that there is."""

import re
import shlex
import subprocess
import sys

import pytest

from actor import cli as host
from broker import cli as broker
from sdk import __main__ as sdk
from tests.support.deployment import DEADLINE_S, ROOT, Deployment, environment

PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/guide.md", "docs/operation.md")
}
GUIDE = PAGES["docs/guide.md"]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:python -m |warmslot |(?<=`)sdk )([^`\n]+)")

# What stands around a piece of code, by the first words of that: what comes before, what after, and
# what is printed then.
AROUND = {
    "client.submit": ("fetch, url = len, 'https://somewhere'", "", ""),
    "class Vision": (
        "",
        "print(client.submit(lambda: 1, environment=Vision, limits={'db': 1}).result(60))",
        "1\n",
    ),
    "class Embedder": (
        "load = lambda: lambda texts: list(map(str.upper, texts))",
        "print(client.submit(Embedder.embed, 'another').result(60))",
        "ANOTHER\n",
    ),
    "class Counter": (
        "step = type",
        "print(client.get_actor('clicks').incr.submit(0).result(60))",
        "3\n",
    ),
    "class Store": (
        "",
        "print(store.read.submit('a').result(60), store.stop.submit().result(60))",
        "None None\n",
    ),
    "def outer": (
        "query = len",
        "print(type(client.submit(outer).exception(60)).__name__)",
        "Deadlock\n",
    ),
    "def step": (
        "download, detect, save = str.upper, len, print",
        "print(client.submit(step, 'page', limits={'host:gpu': 1}).result(60))",
        "None\n",
    ),
    "future = client.submit": (
        "invoice = lambda number: number",
        "",
        r"[0-9a-f]{16}-1\n",
    ),
}
# It stands with its output (tests/test_readme.py), is Prefect's, is pytest's (below).
OTHERWISE = {"import asyncio", "with concurrency", "@pytest.fixture"}


def pieces():
    """Yield the first words and the text of each piece of Python code."""
    for indent, kind, text in BLOCK.findall(GUIDE):
        if kind in ("py", "python"):
            lines = [line.removeprefix(indent) for line in text.splitlines()]
            yield re.split(r"[(:]", lines[0])[0], "\n".join(lines)


@pytest.fixture(scope="module")
def world():
    with Deployment() as world:
        journal = str(world.folder / "journal")
        world.start(
            *("broker", "-m", "broker", "--bind", world.endpoint, "--data-dir", journal),
            *("--limit", "db=1", "--limit", "licence=1"),
        )
        world.start_host(
            *("gpu1", "--slots", "16", "--slot", "gpu=1", "--limit", "gpu=2"),
            *("--label", "memory=512", "--environments-max", "4"),
        )
        yield world


def piece(first):
    (text,) = [text for name, text in pieces() if name == first]
    # Whoever reads it has a task's id of their own.
    return re.sub(r'"[0-9a-f]{16}-1"', "future.task_id", text)


def run(folder, *arguments, **variables):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_each_piece_of_code_in_the_guide_is_run():
    assert {first for first, _ in pieces()} == set(AROUND) | OTHERWISE


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("first", AROUND)
def test_a_piece_of_code_in_the_guide_does_what_it_says(world, first, tmp_path):
    before, after, printed = AROUND[first]
    lines = ["from sdk import *", "client = Client()", before, piece(first), after]
    (tmp_path / "script.py").write_text("\n".join([*lines, "client.close()"]), encoding="utf-8")

    done = run(tmp_path, "script.py", WARMSLOT_BROKER=world.endpoint)

    assert done.returncode == 0, done.stderr + world.story()
    assert re.fullmatch(printed, done.stdout)


@pytest.mark.process
@pytest.mark.slow
def test_the_fixture_of_the_guide_works(tmp_path):
    lines = ["import pytest", "from sdk import LocalCluster", piece("@pytest.fixture")]
    lines.insert(2, "def thumbnail(path):\n    return path.replace('.', '.thumb.')")
    (tmp_path / "test_mine.py").write_text("\n".join(lines), encoding="utf-8")

    done = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py")

    assert done.returncode == 0, done.stdout


def commands():
    """Yield the arguments of each command that stands in a document, and where."""
    for name, page in PAGES.items():
        for text in COMMAND.findall(page):
            words = re.sub(r" [|&#].*|\.\.\.", "", text.replace("  ", " #"))
            program, *arguments = shlex.split(words)
            if program in ("broker", "actor", "sdk"):
                yield name, program, arguments
            elif program in sdk.COMMANDS:
                yield name, "sdk", [program, *arguments]


@pytest.mark.parametrize(
    ("page", "program", "arguments"),
    [pytest.param(*one, id=" ".join(one[2])) for one in commands()],
)
def test_a_command_of_the_documents_is_one_that_there_is(page, program, arguments):
    match program:
        case "broker":
            broker.read_options(arguments, {})
        case "actor":
            host.make_parser().parse_args(arguments)
        case _ if arguments:
            # One that is only named in the prose is not told all that it needs.
            assert re.fullmatch(r"|the following arguments are required: .*", why_not(arguments))


def why_not(arguments):
    try:
        sdk.read(arguments)
    except sdk.Usage as error:
        return str(error)
    return ""
