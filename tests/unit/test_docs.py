"""What the documents name exists: files, headings, commands, options, settings, metrics, make targets."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from ops.cli.main import app
from ops.metrics import Metrics
from ops.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
SETTINGS = {name.upper() for name in Settings.model_fields}

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
OUR_PATH = re.compile(r"(?<![\w/.-])((?:schemas|store|workers|ingress|ops|tests|docs|\.ci)/[\w./*-]*)")
SETTING = re.compile(r"(?<![\w$.-])([A-Z][A-Z0-9]*_[A-Z0-9_]+|[A-Z]{3,}(?==))(?![\w-])")
METRIC = re.compile(r"\bsupportstream_[a-z0-9_]+")
COMMAND = re.compile(r"\bsupportstream[ \t]+((?:[a-z]+[ \t]*)+|(?=--))([^`|\n]*)")
OPTION = re.compile(r"(?<!\S)--[a-z-]+")
MAKE = re.compile(r"\bmake ([a-z]+)")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def code_in(text: str) -> list[str]:
    """What is set as code: fenced blocks and spans, the latter on one line."""
    spans = [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text))]
    return [*FENCE.findall(text), *spans]


def slugs(markdown: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def metric_names() -> set[str]:
    """Metrics as a query names them."""
    families = [family for family in Metrics().registry.collect() if family.name.startswith("supportstream_")]
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


def command_line_problems(words: list[str], rest: str) -> Iterator[str]:
    """What of `supportstream WORDS REST` the command line doesn't know."""
    command = typer.main.get_command(app)
    while words and isinstance(command, TyperGroup):
        if words[0] not in command.commands:
            yield f"no command {' '.join(words)}"
            return
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    yield from (f"{command.name} has no {option}" for option in OPTION.findall(rest) if option not in known)


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        linked = document if not name else (document.parent / name).resolve()
        if not linked.exists() or (anchor and anchor not in slugs(linked.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


@each_document
def test_files_exist(document: Path) -> None:
    named = {path for code in code_in(document.read_text(encoding="utf-8")) for path in OUR_PATH.findall(code)}
    assert [path for path in sorted(named) if not any(ROOT.glob(path.rstrip("/.")))] == []


@each_document
def test_commands_and_their_options_exist(document: Path) -> None:
    problems: list[str] = []
    for code in code_in(document.read_text(encoding="utf-8")):
        for words, rest in COMMAND.findall(code):
            problems += command_line_problems(words.split(), rest)
    assert problems == []


@each_document
def test_settings_exist(document: Path) -> None:
    in_code_of_the_project = {"NEXT_FENCE", "RECENT_EVENTS", "CHAOS_SEED", "CHAOS_ENCRYPTED", "TEST_PROCESSES"}
    named = {name for code in code_in(document.read_text(encoding="utf-8")) for name in SETTING.findall(code)}
    assert sorted(named - SETTINGS - in_code_of_the_project) == []


@each_document
def test_metrics_exist(document: Path) -> None:
    named = set(METRIC.findall(document.read_text(encoding="utf-8")))
    assert sorted(named - metric_names()) == []


@each_document
def test_make_targets_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {name for code in code_in(document.read_text(encoding="utf-8")) for name in MAKE.findall(code)}
    assert [name for name in sorted(named) if f"\n{name}:" not in makefile] == []


def test_operations_has_every_metric() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert sorted(metric_names() - set(METRIC.findall(text))) == []


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    listed = LINK.findall((ROOT / "docs/decisions/README.md").read_text(encoding="utf-8"))
    assert listed == [path.name for path in DECISIONS]
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_why_what_and_until_when(decision: Path) -> None:
    text = decision.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(decision.name[:4])}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Revisit when"]


def test_the_picture_explains_itself_without_eyes() -> None:
    svg = (ROOT / "docs/images/architecture.svg").read_text(encoding="utf-8")
    assert 'role="img"' in svg
    assert "<title" in svg
    assert "<desc" in svg
