"""`knowledge add|list|remove|search`."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from ops import knowledge, wiring
from ops.cli.console import err, out, prepare, print_json, run
from ops.errors import OpsError, UsageError
from ops.settings import Settings
from schemas.knowledge import DocumentUpserted
from schemas.publishing import PublishError
from schemas.topics import MAX_DOCUMENT_BYTES

app = typer.Typer(help="The documents that answers come from.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="As one JSON document.")]


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(help="Text or Markdown; the file name is the document's id.")],
) -> None:
    """Embeds documents and publishes them; every worker knows them a moment later."""
    run(_add(prepare(), files))


async def _add(settings: Settings, files: list[Path]) -> None:
    from ops.processes.worker import load_embedder
    from workers.retrieval.documents import check_supported, read_document
    from workers.retrieval.errors import DocumentError

    try:
        for path in files:
            # Before seconds go into loading the model.
            check_supported(path)
    except DocumentError as error:
        raise UsageError(str(error)) from error
    connection = wiring.kafka_connection(settings)
    kafka = wiring.publisher(settings, connection, max_record_bytes=MAX_DOCUMENT_BYTES)
    topic = wiring.topic_names(settings).knowledge
    embedder = await load_embedder(settings)
    try:
        await kafka.partitions_of(topic)
        for path in track(files, "Adding", console=err, disable=not err.is_terminal):
            document = await asyncio.to_thread(read_document, path, embedder, now=datetime.now(UTC))
            await knowledge.publish_document(kafka, topic, document)
            out.print(f"added {document.doc_id}: {document.title} ({len(document.passages)} passages)", markup=False)
    except (DocumentError, PublishError) as error:
        raise OpsError(str(error)) from error
    finally:
        embedder.close()
        await kafka.close()


@app.command("list")
def list_documents(as_json: AsJson = False) -> None:
    """What is in the knowledge topic."""
    documents = run(_list(prepare()))
    if as_json:
        print_json(
            [
                {"doc_id": d.doc_id, "title": d.title, "passages": len(d.passages), "url": d.url, "model": d.model}
                for d in documents
            ]
        )
        return
    table = Table("id", "title", "passages", box=None, pad_edge=False)
    for document in documents:
        table.add_row(document.doc_id, document.title, str(len(document.passages)))
    out.print(table)


@app.command()
def remove(
    doc_id: Annotated[str, typer.Argument(help="As `knowledge list` shows it.")],
    execute: Annotated[bool, typer.Option(help="Do it; without this only say what would happen.")] = False,
) -> None:
    """Takes a document out of every worker's index."""
    settings = prepare()
    if doc_id not in {document.doc_id for document in run(_list(settings))}:
        raise OpsError(f"There is no document {doc_id}; see: supportstream knowledge list")
    if not execute:
        out.print(f"would remove {doc_id}; add --execute to do it", markup=False)
        return
    run(_remove(settings, doc_id))
    out.print(f"removed {doc_id}", markup=False)


async def _remove(settings: Settings, doc_id: str) -> None:
    kafka = wiring.publisher(settings, wiring.kafka_connection(settings), max_record_bytes=MAX_DOCUMENT_BYTES)
    try:
        await knowledge.remove_document(kafka, wiring.topic_names(settings).knowledge, doc_id)
    except PublishError as error:
        raise OpsError(str(error)) from error
    finally:
        await kafka.close()


@app.command()
def search(
    question: Annotated[str, typer.Argument(help="What a customer might ask.")],
    limit: Annotated[int, typer.Option(min=1, max=50)] = 5,
    as_json: AsJson = False,
) -> None:
    """The passages that a worker would find for a question."""
    found = run(_search(prepare(), question, limit))
    if as_json:
        print_json(found)
        return
    for passage in found:
        out.print(f"{passage['score']:.3f}  {passage['doc_id']}: {passage['passage']}", markup=False)


async def _search(settings: Settings, question: str, limit: int) -> list[dict[str, object]]:
    from ops.processes.worker import load_embedder
    from workers.retrieval.knowledge import KnowledgeState

    embedder = await load_embedder(settings)
    try:
        state = KnowledgeState(embedder.name, embedder.dimensions)
        topic = wiring.topic_names(settings).knowledge
        await knowledge.read_knowledge(wiring.kafka_connection(settings), topic, state.apply)
        passages = state.build().search(embedder.encode([question]), limit)[0]
        return [asdict(passage) for passage in passages]
    finally:
        embedder.close()


async def _list(settings: Settings) -> list[DocumentUpserted]:
    return await knowledge.list_documents(wiring.kafka_connection(settings), wiring.topic_names(settings).knowledge)
