"""`whatif`."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ops import wiring
from ops.cli.console import harmless, out, prepare, print_json, run
from ops.cli.page_file import HTML_OPTION, write_page
from ops.cli.progress import progress
from ops.cli.times import point_in_time
from ops.errors import OpsError, UsageError
from ops.kafka.connection import KafkaConnection
from ops.kafka.reading import span_reader
from ops.settings import Settings
from ops.transfer import Span
from ops.whatif.comparison import KINDS, Comparison, Kind, cited_documents, counts, is_refusal
from ops.whatif.knowledge import Known, knowledge_files, known
from ops.whatif.page import HEADINGS, page, score
from ops.whatif.run import Recorded, answered_again, recorded_turns
from ops.wiring.generation import generator_of
from schemas.replies import Reply
from store.seals import Seals

_MEANINGS: dict[Kind, str] = {
    "newly_refused": "had an answer, and would be offered a person",
    "newly_answered": "were offered a person, and would get an answer",
    "changed": "would read something else, or other sources",
    "same": "would read the same",
}
_SHOWN = 10
"""Of each kind; the rest is in the page and the JSON document."""
_SHOWN_CHARACTERS = 300


def register(app: typer.Typer) -> None:
    app.command()(whatif)


def whatif(
    since: Annotated[
        str, typer.Option(help="Messages answered then or later: 2026-01-31T08:00:00Z, or how long ago: 2h, 1d.")
    ] = "1d",
    until: Annotated[str | None, typer.Option(help="Messages answered before then, in the same forms.")] = None,
    session: Annotated[list[str] | None, typer.Option(help="Only of this session; repeat for more.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many messages, the newest.")] = 1_000,
    knowledge: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Answer from the documents in this directory; without it, from those of the topic.",
        ),
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="Answer with this generator; without it, with that of the setting.")
    ] = None,
    html: Annotated[Path | None, HTML_OPTION] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON document.")] = False,
) -> None:
    """Answers recorded messages again, with other knowledge or another generator, and compares the answers.

    Changes nothing: no topic is written to, no session is touched. Needs no worker and no Redis.
    """
    if knowledge is None and generator is None:
        raise UsageError("Say what shall be different: --knowledge DIR, --generator NAME, or both")
    now = datetime.now(UTC)
    span = Span(
        frozenset(session or ()), point_in_time(since, now), point_in_time(until, now) if until is not None else None
    )
    if span.since and span.until and span.since >= span.until:
        raise UsageError(f"--until {until} is not after --since {since}")
    # Nobody reads along, so no answer is paced.
    settings = prepare(generator=generator, answer_pace_words_per_second=0.0)
    found = run(_whatif(settings, span, limit, knowledge))
    if html is not None:
        write_page(html, page(_facts(found), found.comparisons))
    if as_json:
        print_json(_document(found))
    else:
        _print(found)


@dataclass(frozen=True, slots=True)
class _Found:
    span: Span
    recorded: Recorded
    comparisons: Sequence[Comparison]
    generator: str
    known: Known | None
    """None where the generator looks nothing up."""
    directory: Path | None
    """Where the knowledge is from; None: the topic."""


async def _whatif(settings: Settings, span: Span, limit: int, directory: Path | None) -> _Found:
    generator = generator_of(settings)
    if directory is not None and not generator.retrieves:
        raise UsageError(f"The generator {generator.name} uses no knowledge; leave out --knowledge")
    files = knowledge_files(directory) if directory is not None else None
    connection, topics = wiring.kafka_connection(settings), wiring.topic_names(settings)
    async with wiring.session_keys(settings, connection) as seals:
        recorded = await _recorded(connection, seals, topics.replies, span, limit)
    if not recorded.turns:
        raise OpsError(f"No message was answered {_when(span)}; look further back with --since 7d")
    async with AsyncExitStack() as stack:
        now_known = None
        if generator.retrieves:
            now_known = await stack.enter_async_context(known(settings, connection, topics.knowledge, files, progress))
        with progress("Answering messages") as advance:
            retriever = now_known.retriever if now_known else None
            compared = await answered_again(recorded.turns, generator, retriever, advance)
    return _Found(span, recorded, compared, generator.name, now_known, directory)


async def _recorded(connection: KafkaConnection, seals: Seals, topic: str, span: Span, limit: int) -> Recorded:
    async with span_reader(connection, seals=seals) as consumer:
        with progress("Reading replies") as advance:
            return await recorded_turns(consumer, topic, span, limit, advance)


def _document(found: _Found) -> dict[str, Any]:
    knowledge = found.known and {
        "directory": str(found.directory) if found.directory else None,
        "documents": found.known.documents,
        "passages": found.known.passages,
        "kb_version": found.known.kb_version,
        "left_out": found.known.left_out,
    }
    return {
        "since": found.span.since,
        "until": found.span.until,
        "generator": found.generator,
        "knowledge": knowledge,
        "messages": {
            "found": found.recorded.found,
            "compared": len(found.comparisons),
            "without_reply": found.recorded.without_reply,
            "unreadable": found.recorded.unreadable,
        },
        "counts": counts(found.comparisons),
        "comparisons": [_entry(each) for each in found.comparisons],
    }


def _entry(each: Comparison) -> dict[str, Any]:
    documents = cited_documents(each.before, each.after)
    return {"kind": each.kind, **asdict(each), "cited_documents": [asdict(document) for document in documents]}


def _facts(found: _Found) -> list[str]:
    read, compared = found.recorded, len(found.comparisons)
    newest = f", the newest of {read.found:,}; --limit takes more" if read.found > compared else ""
    facts = [f"{_number(compared, 'message')} answered {_when(found.span)}{newest}."]
    if found.known is None:
        facts.append(f"Answered again by {found.generator}, without knowledge.")
    else:
        where = f"{found.directory}" if found.directory else "the topic"
        size = f"{_number(found.known.documents, 'document')}, {_number(found.known.passages, 'passage')}"
        facts.append(f"Answered again by {found.generator} from {where} ({size}, version {found.known.kb_version}).")
        if found.known.left_out:
            facts.append(f"Without {_number(found.known.left_out, 'document')} that another model embedded.")
    if read.without_reply:
        facts.append(f"Without {_number(read.without_reply, 'message')} that a person had in hand.")
    if read.unreadable:
        facts.append(f"Without {_number(read.unreadable, 'record')} that can't be read.")
    return facts


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}{'' if count == 1 else 's'}"


def _when(span: Span) -> str:
    since = f"since {span.since:%Y-%m-%d %H:%M} UTC" if span.since else "ever"
    return f"{since}, until {span.until:%Y-%m-%d %H:%M} UTC" if span.until else since


def _print(found: _Found) -> None:
    for fact in _facts(found):
        out.print(harmless(fact), markup=False)
    for kind, count in counts(found.comparisons).items():
        out.print(f"{count:>8,}  {HEADINGS[kind].lower():15} {_MEANINGS[kind]}", markup=False)
    for kind in KINDS:
        meant = [each for each in found.comparisons if each.kind == kind]
        # What stays as it is needs no look; the page and the JSON document have it.
        if meant and kind != "same":
            _print_kind(kind, meant)


def _print_kind(kind: Kind, comparisons: Sequence[Comparison]) -> None:
    table = Table(title=f"\n{HEADINGS[kind]}", title_justify="left", expand=True, show_lines=True)
    for heading, ratio in (("question", 2), ("before", 3), ("after", 3)):
        table.add_column(heading, ratio=ratio, overflow="fold")
    for each in comparisons[:_SHOWN]:
        table.add_row(
            Text(f"{_short(each.question)}\n\n{harmless(each.session_id)}"),
            _side(each.before, [(d.doc_id, d.title, d.before) for d in cited_documents(each.before, each.after)]),
            _side(each.after, [(d.doc_id, d.title, d.after) for d in cited_documents(each.before, each.after)]),
        )
    # Cells are wrapped, where other output is left to the terminal.
    out.print(table, soft_wrap=False)
    if (more := len(comparisons) - _SHOWN) > 0:
        out.print(f"and {more:,} more; all are in --json and --html", markup=False)


def _side(reply: Reply, documents: Sequence[tuple[str, str, float | None]]) -> Text:
    """A reply, and a line for every document that it or the other one cites."""
    said = f"{_short(reply.text)}{' (refused)' if is_refusal(reply) else ''}"
    cited = [f"{score(at):>5}  {_short(doc_id)}: {_short(title)}" for doc_id, title, at in documents]
    return Text("\n".join([said, "", *cited] if cited else [said]))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return harmless(line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…")
