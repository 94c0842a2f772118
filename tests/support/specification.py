"""Read protocol.md as what it is: sections, tables, code lines and examples, as plain values."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parents[2] / "protocol.md"

# What stands for octets in an example, and how many these are when that matters.
PLACEHOLDER = re.compile(r"<([^<>]*)>")
OCTETS = re.compile(r"(\d+) octets")
EPOCH = 1_790_000_000_000

ROLES = {"client": {"client"}, "actor": {"actor"}, "host": {"host"}}
ANY_PEER = {"client", "actor", "host"}


@dataclass(frozen=True)
class Section:
    """One section of the text, without the sections below it."""

    number: str
    title: str
    text: str

    @property
    def code_lines(self) -> list[str]:
        """Return the indented lines, stripped."""
        return [line.strip() for line in self.text.splitlines() if line.startswith("    ")]

    @property
    def tables(self) -> list[list[list[str]]]:
        """Return each table as rows of cells, the heading first, the rule left out."""
        tables: list[list[list[str]]] = []
        is_inside = False
        for line in self.text.splitlines():
            if not line.startswith("|"):
                is_inside = False
                continue
            if not is_inside:
                tables.append([])
            is_inside = True
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if not all(set(cell) <= {"-", ":"} and cell for cell in cells):
                tables[-1].append(cells)
        return tables


@dataclass(frozen=True)
class Message:
    """One section of the messages: what it says about the Struct."""

    tag: str
    section: Section
    says: frozenset[str]
    is_told: frozenset[str]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """One line of an example: who speaks, and the command as plain values."""

    section: str
    speaker: str
    command: list[Any]
    # Ends with "...": what follows is as in the example of the message's own section.
    is_cut: bool


@cache
def sections() -> dict[str, Section]:
    """Return every numbered section by its number."""
    parts = re.split(r"(?m)^#{2,3} (\d+(?:\.\d+)?) (.+)$", PATH.read_text(encoding="utf-8"))
    found = {}
    for number, title, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        assert number not in found, f"section {number} stands there twice"
        found[number] = Section(number, title, text)
    return found


@cache
def messages() -> list[Message]:
    """Return the messages of section 7 in their order."""
    return [
        read_message(section) for number, section in sections().items() if number.startswith("7.")
    ]


def read_message(section: Section) -> Message:
    """Read title and first code line of a message."""
    match = re.fullmatch(r"([A-Z-]+) \((.+)\)", section.title)
    assert match, f"section {section.number}: {section.title!r} is not NAME (from -> to)"
    says: set[str] = set()
    is_told: set[str] = set()
    for direction in match[2].split(", "):
        sender, _, receiver = direction.partition(" -> ")
        if receiver == "broker":
            says |= roles_named(sender)
        else:
            assert sender == "broker", f"section {section.number}: {direction!r}"
            is_told |= roles_named(receiver)
    tag, *fields = bracketed(section.code_lines[0])
    assert tag == f'"{match[1].lower()}"', f"section {section.number}: {tag} is not its title"
    return Message(tag.strip('"'), section, frozenset(says), frozenset(is_told), tuple(fields))


def roles_named(text: str) -> set[str]:
    """Return the roles of *text*, "any peer" or one of them."""
    return ANY_PEER if text == "any peer" else ROLES[text]


def bracketed(text: str) -> list[str]:
    """Return the names in `[a, b, c]`, which *text* is."""
    assert text.startswith("["), text
    assert text.endswith("]"), text
    return [name.strip() for name in text[1:-1].split(",")]


def shape(section: str, beginning: str) -> tuple[str, ...]:
    """Return the names of the first `[names]` in *section* that begins with *beginning*."""
    text = sections()[section].text
    match = re.search(rf"\[{beginning}[a-z_,\s]*\]", text)
    assert match, f"section {section} has no [{beginning}...]"
    return tuple(bracketed(" ".join(match[0].split())))


@cache
def examples() -> list[Example]:
    """Return every line of every section that says who speaks."""
    return [
        Example(section.number, match[1], read_example(match[2]), ", ...]" in match[2])
        for section in sections().values()
        for line in section.code_lines
        if (match := re.match(r"([CABH]): (\[.*)", line))
    ]


def whole(example: Example) -> list[Any]:
    """Return the command of *example*, completed when it is cut."""
    if not example.is_cut:
        return example.command
    model = next(
        other.command
        for other in examples()
        if other.command[0] == example.command[0] and not other.is_cut
    )
    return example.command + model[len(example.command) :]


def read_example(text: str) -> list[Any]:
    """Read a command as it stands in the text; what follows it is a remark."""
    text = PLACEHOLDER.sub(lambda match: json.dumps(f"\0{match[1]}"), text)
    text = re.sub(r"(?<=[\[ ,])e(?=[\],])", str(EPOCH), text)
    text = text.replace(", ...]", "]")
    command, _ = json.JSONDecoder().raw_decode(text)
    result: list[Any] = octets(command)
    return result


def octets(value: Any) -> Any:
    """Put octets where a placeholder stands."""
    if isinstance(value, list):
        return [octets(item) for item in value]
    if isinstance(value, dict):
        return {key: octets(item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith("\0"):
        wanted = OCTETS.search(value)
        return bytes(int(wanted[1])) if wanted else value.encode()
    return value


def grammar() -> dict[str, list[str]]:
    """Return the alternatives of every rule of section 6."""
    text = re.search(r"(?s)```abnf\n(.*?)```", sections()["6"].text)
    assert text
    lines = [line.partition(";")[0].rstrip() for line in text[1].splitlines()]
    rules: dict[str, str] = {}
    name = ""
    for line in lines:
        head, separator, rest = line.partition(" = ")
        if separator and not line.startswith(" "):
            name = head.strip()
            rules[name] = rest
        elif line.strip():
            rules[name] += " " + line.strip()
    return {name: [part.strip() for part in text.split("/")] for name, text in rules.items()}
