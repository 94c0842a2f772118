"""The house rules hold for every tracked file, and each rule catches what it is there for."""

import ast
import re
from pathlib import Path

import pytest

from tests.support import tidy

LONG_FILE = '"""Long."""\n' + "x = 1\n" * tidy.FILE_LINES_MAX
LONG_FUNCTION = "def work():\n" + "    x = 1\n" * tidy.FUNCTION_LINES_MAX
FULL_FUNCTION = "def work():\n" + "    x = 1\n" * (tidy.FUNCTION_LINES_MAX - 1)

# Put together here, so that this file does not break the rule itself.
SOMEBODYS_HOME = "/{}/ann/warmslot".format("home")
ROOTS_HOME = "/{}/.venv".format("root")
SECRET = 'secret-key = "{}"'.format("k" * 40)

CAUGHT = [
    (tidy.layers, "wire/codec.py", "import sdk.errors"),
    (tidy.layers, "wire/codec.py", "from broker import core"),
    (tidy.layers, "broker/loop.py", "from sdk.client import Client"),
    (tidy.layers, "broker/loop.py", "def work():\n    import actor"),
    (tidy.layers, "broker/loop.py", "from ..actor import core"),
    (tidy.layers, "sdk/cluster.py", "import importlib\nimportlib.import_module('broker.loop')"),
    (tidy.layers, "sdk/client.py", "from actor.core import Core"),
    (tidy.layers, "actor/loop.py", "import broker"),
    (tidy.layers, "actor/loop.py", "from tests.support import tidy"),
    (tidy.pickling, "broker/disk/journal.py", "import pickle"),
    (tidy.pickling, "broker/disk/journal.py", "from cloudpickle import loads"),
    (tidy.pickling, "broker/disk/journal.py", "import dill as d"),
    (tidy.pickling, "broker/disk/journal.py", "from wire import payload"),
    (tidy.pickling, "broker/disk/journal.py", "from wire.payload import load"),
    (tidy.pickling, "wire/codec.py", "from . import payload"),
    (tidy.purity, "broker/core.py", "import time"),
    (tidy.purity, "broker/core.py", "from time import monotonic"),
    (tidy.purity, "broker/waiting/backlog.py", "import random"),
    (tidy.purity, "actor/holding/mailbox.py", "import threading"),
    (tidy.purity, "sdk/core.py", "import os.path"),
    (tidy.purity, "sdk/core.py", "async def step(): ..."),
    (tidy.purity, "wire/labels.py", "import uuid"),
    (tidy.purity, "wire/labels.py", "open('labels')"),
    (tidy.purity, "wire/payload.py", "import zmq"),
    (tidy.size, "wire/codec.py", LONG_FILE),
    (tidy.size, "broker/core.py", LONG_FUNCTION),
    (tidy.size, "tests/test_x.py", LONG_FILE),
    (tidy.size, "bench/latency.py", LONG_FUNCTION),
    (tidy.banned_code, "broker/loop.py", "print('ready')"),
    (tidy.banned_code, "broker/loop.py", "import time\ntime.time()"),
    (tidy.banned_code, "broker/loop.py", "import time as clock\nclock.time()"),
    (tidy.banned_code, "bench/latency.py", "from time import time\ntime()"),
    (tidy.banned_code, "tests/test_x.py", "import time\ntime.sleep(1)"),
    (tidy.banned_code, "tests/test_x.py", "from time import sleep\nsleep(1)"),
    (tidy.banned_code, "sdk/client.py", "try:\n    x\nexcept:\n    pass"),
    (tidy.unowned_work, "sdk/client.py", "x = 1  # TODO: later"),
    (tidy.unowned_work, "tests/test_x.py", "# FIXME(ann) soon"),
    (tidy.docstring, "sdk/client.py", "x = 1"),
    (tidy.empty_init, "sdk/__init__.py", '"""Sdk."""\nx = 1'),
    (tidy.empty_init, "wire/__init__.py", "def version(): ..."),
    (tidy.machine_path, "README.md", f"cd {SOMEBODYS_HOME}"),
    (tidy.prose_width, "docs/guide.md", "word " * 21),
    (tidy.secret, "keys/broker.key_secret", f"curve\n    {SECRET}"),
    (tidy.machine_path, "Makefile", f"PYTHON = '{ROOTS_HOME}/bin/python'"),
]

LET_PASS = [
    (tidy.layers, "actor/loop.py", "import wire.codec\nfrom sdk import task"),
    (tidy.layers, "broker/loop.py", "from wire import codec\nimport sdkless"),
    (tidy.layers, "tests/test_x.py", "import broker.core, actor.core, sdk.core"),
    (tidy.pickling, "wire/payload.py", "import pickle, cloudpickle"),
    (tidy.pickling, "actor/running/slot.py", "from wire import payload"),
    (tidy.pickling, "broker/disk/journal.py", "from wire import codec"),
    (tidy.purity, "broker/loop.py", "import time, zmq, threading"),
    (tidy.purity, "broker/core.py", "import heapq\nfrom broker.task import Task"),
    (tidy.purity, "sdk/task.py", "import threading"),
    (tidy.purity, "wire/payload.py", "import os, sys, threading"),
    (tidy.size, "broker/core.py", FULL_FUNCTION),
    (tidy.size, "tests/test_x.py", FULL_FUNCTION),
    (tidy.banned_code, "broker/cli.py", "print('ready')"),
    (tidy.banned_code, "sdk/__main__.py", "print('ready')"),
    (tidy.banned_code, "bench/latency.py", "print('ready')"),
    (tidy.banned_code, "broker/loop.py", "import time\ntime.monotonic()\ntask.time()"),
    (tidy.banned_code, "tests/test_x.py", "import asyncio\nasyncio.sleep(0)"),
    (tidy.unowned_work, "sdk/client.py", "x = 'TODO'  # TODO(#12): later"),
    (tidy.docstring, "sdk/client.py", '"""Client."""'),
    (tidy.docstring, "tests/test_x.py", "x = 1"),
    (tidy.empty_init, "sdk/__init__.py", '"""Sdk."""\nfrom sdk.client import C\n__all__ = ["C"]'),
    (tidy.prose_width, "docs/guide.md", "```\n" + "word " * 21 + "\n```\n| " + "cell " * 21),
    (tidy.secret, "keys/gpu1.key", SECRET.replace("secret", "public")),
    (tidy.prose_width, "docs/guide.md", "- `" + "code " * 21 + "`"),
    (
        tidy.machine_path,
        "README.md",
        f"see https://example.org{ROOTS_HOME}/ and tests{ROOTS_HOME}/x, $HOME/x",
    ),
]


@pytest.mark.parametrize("rule", tidy.RULES, ids=lambda rule: rule.__name__)
def test_every_tracked_file_keeps_the_rule(rule):
    complaints = [
        complaint
        for path, text in tidy.tracked_texts()
        if rule in tidy.RULES_FOR_ALL or path.endswith(".py")
        for complaint in rule(path, text)
    ]

    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize(("rule", "path", "text"), CAUGHT)
def test_a_rule_catches_a_planted_violation(rule, path, text):
    complaints = rule(path, text)

    assert len(complaints) == 1
    assert complaints[0].startswith(f"{path}:")


@pytest.mark.parametrize(("rule", "path", "text"), LET_PASS)
def test_a_rule_lets_good_code_pass(rule, path, text):
    assert rule(path, text) == []


def test_each_rule_has_a_planted_violation():
    assert {rule for rule, _, _ in CAUGHT} == set(tidy.RULES)


def test_no_function_may_be_long_that_is_not(monkeypatch):
    allowed = tidy.LONG_FUNCTIONS
    monkeypatch.setattr(tidy, "LONG_FUNCTIONS", {})

    long = [c for path, _ in allowed for c in tidy.size(path, dict(tidy.tracked_texts())[path])]

    assert len(long) == len(allowed)


def test_the_rules_read_this_very_file():
    assert "tests/test_tidy.py" in dict(tidy.tracked_texts())


def test_each_invariant_of_the_architecture_is_checked_where_it_says():
    text = (tidy.ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (I\d+) \|[^|]*\|(.*)\|$", text, flags=re.MULTILINE)
    places = [place.split(":") for _, row in rows for place in re.findall(r"`(\S+)`", row)]
    files = dict(tidy.tracked_texts())
    everything = "\n".join(text for path, text in files.items() if path.endswith(".py"))
    # Each word that does not stand behind "def".
    said = set(re.findall(r"(?<!def )\b\w+", everything))

    assert [name for name, _ in rows] == [f"I{n}" for n in range(1, 37)]
    assert len(places) >= len(rows)
    for path, name in places:
        tree = tidy.tree_of(files[path])
        named = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
        says = [n for one in named for n in ast.walk(one) if isinstance(n, ast.Assert | ast.Return)]
        # Those that return say what is wrong; the model's word for assert is a function.
        assert says or "must_hold(" in files[path], f"{path} has no {name} that checks anything"
        assert named, f"{path} has no {name}"
        assert name in said, f"nobody asks {path} for {name}"


def test_the_map_of_the_architecture_has_every_file():
    text = (tidy.ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    sections = {
        part.partition(":")[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)
    }
    files = [
        Path(path)
        for path, _ in tidy.tracked_texts()
        if re.fullmatch(r"(wire|broker|actor|sdk)/(\w+/)*(?!__)\w+\.py", path)
    ]

    assert len(files) > 50
    assert [str(file) for file in files if f"`{file.name}`" not in sections[file.parts[0]]] == []
