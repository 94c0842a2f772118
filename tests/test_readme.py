"""What README.md tells a new user to type works, and shows what it really shows."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sdk import LocalCluster
from tests.support.deployment import DEADLINE_S, ROOT, Deployment, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_S = DEADLINE_S


def blocks(kind, page=README):
    return [text for name, text in BLOCK.findall(page) if name == kind]


def background_commands():
    """Return the arguments of `$ python ... &` in the console block."""
    (console,) = blocks("console")
    lines = [line.removeprefix("$ ") for line in console.splitlines()]
    return [shlex.split(line.removesuffix("&"))[1:] for line in lines if line.startswith("python")]


def run(folder, text, **variables):
    path = folder / "example.py"
    path.write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(**variables),
        cwd=folder,
        check=False,
    )


@pytest.mark.process
@pytest.mark.slow
def test_the_example_prints_what_stands_below_it(tmp_path):
    (example,) = blocks("python")
    shown = blocks("")[0]
    with Deployment() as world:
        # The same commands on endpoints of their own: somebody may use the default one.
        variables = {
            "WARMSLOT_BIND": world.endpoint,
            "WARMSLOT_BROKER": world.endpoint,
            "WARMSLOT_DATA_DIR": str(tmp_path / "journal"),
        }
        for place, arguments in enumerate(background_commands()):
            world.start(str(place), *arguments, **variables)
        # Whoever waits for them for three seconds is told so, in a line that is not shown.
        world.actors(world.client(), "gpu1/0")

        done = run(tmp_path, example, **variables)

        assert done.returncode == 0, done.stderr + world.story()
        assert done.stdout == shown
        assert done.stderr == ""


@pytest.mark.process
@pytest.mark.slow
def test_the_calls_and_futures_of_the_guide_print_what_stands_below_them(tmp_path):
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    page = guide.partition("\n## Calls and futures\n")[2].partition("\n## ")[0]
    (example,), (shown,) = blocks("python", page), blocks("", page)
    with LocalCluster(actors=2) as cluster:
        done = run(tmp_path, example, WARMSLOT_BROKER=cluster.endpoint)

    assert (done.stdout, done.stderr) == (shown, "")


@pytest.mark.process
@pytest.mark.slow
def test_the_line_for_no_broker_at_hand_works(tmp_path):
    (line,) = re.findall(r"`(with LocalCluster\(.*:)`", README)
    text = f"from sdk import LocalCluster\n{line}\n    print(client.submit(pow, 2, 5).result())\n"

    done = run(tmp_path, text)

    assert (done.stdout, done.stderr) == ("32\n", "")


def test_the_example_is_as_short_as_it_claims_to_be():
    (example,) = blocks("python")

    assert len([line for line in example.splitlines() if line.strip()]) <= 20


def test_each_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"^(?: {4})?make (\w+)", README, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/operation.md"])
def test_each_link_to_a_file_leads_somewhere(page):
    place = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)", place.read_text(encoding="utf-8"))

    assert links
    assert [link for link in links if not Path(place.parent, link).exists()] == []


def anchors(page):
    """Return what GitHub calls the headings of *page* in links."""
    titles = re.findall(r"^#+ (.*)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/operation.md"])
def test_each_link_to_a_heading_leads_to_one(page):
    place = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", place.read_text(encoding="utf-8"))

    wrong = [
        (path, anchor)
        for path, anchor in links
        if anchor not in anchors(Path(place.parent, path) if path else place)
    ]

    assert wrong == []


def test_what_takes_long_to_read_stands_elsewhere():
    lines = README.splitlines()

    assert len(lines) <= 100
    # The tables apart, which no line break may cut.
    assert [line for line in lines if len(line) > 145 and not line.startswith("|")] == []
