"""`dev`, `ingress`, `worker`."""

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated, Any

import typer

from ops import wiring
from ops.cli.console import err, out, prepare, run
from ops.client import ChatClient
from ops.metrics import Metrics
from ops.processes.serving import StopSignal, listen, serve, started
from ops.settings import Settings

Port = Annotated[int | None, typer.Option(help="Port to serve on; 0 takes a free one.", min=0, max=65_535)]


def register(app: typer.Typer) -> None:
    app.command()(dev)
    app.command()(ingress)
    app.command()(worker)


def dev(
    port: Port = None,
    broker_port: Annotated[int | None, typer.Option(help="Port of the embedded broker; default: a free one.")] = None,
    ask: Annotated[str | None, typer.Option(help="Ask this, print the answer with its sources, and exit.")] = None,
) -> None:
    """Everything in one process on embedded defaults. KAFKA_BOOTSTRAP_SERVERS or REDIS_URL replaces a part."""
    quiet: dict[str, object] = {"api_port": 0, "log_level": "error"} if ask else {"api_port": port}
    settings = prepare(**quiet)
    run(_dev(settings, broker_port, ask))


async def _dev(settings: Settings, broker_port: int | None, ask: str | None) -> None:
    from ops.processes.dev import development

    stop = StopSignal()
    with err.status("Starting the broker, the model and the workers …"):
        stack = AsyncExitStack()
        running = await stack.enter_async_context(development(settings, stop, broker_port=broker_port))
    async with stack:
        if ask is not None:
            client = ChatClient(running.url)
            print_answer(await client.ask(ask))
            await client.close()
            return
        started()
        out.print(f"\n  Chat      [bold]{running.url}/chat[/bold]")
        out.print(f"  API       {running.url}{settings.api_prefix}/chat")
        out.print(f"  Kafka     {running.kafka}   topic {wiring.topic_names(settings).inbound}")
        if settings.kafka_bootstrap_servers is None:
            out.print("            (other commands need KAFKA_IDEMPOTENT_PRODUCER=false for this broker)", style="dim")
        out.print("  Stop      Ctrl+C\n")
        await stop.wait()
        stop.raise_failure()


def print_answer(frame: dict[str, Any]) -> None:
    """The reply and, numbered as in its text, its sources."""
    out.print(frame["text"], markup=False)
    for number, citation in enumerate(frame["citations"], 1):
        place = f"  {citation['url']}" if citation.get("url") else ""
        out.print(f"  [{number}] {citation['title']} ({citation['doc_id']}){place}", markup=False, style="dim")


def ingress(port: Port = None) -> None:
    """Serves WebSocket, REST and the chat page; needs Kafka and Redis."""
    run(_ingress(prepare(api_port=port)))


async def _ingress(settings: Settings) -> None:
    from ops.processes.ingress import ingress_app

    stop = StopSignal()
    connection = wiring.kafka_connection(settings)
    store = wiring.shared_session_store(settings)
    try:
        with listen(settings.api_host, settings.api_port) as listener:
            async with (
                wiring.session_keys(settings, connection) as seals,
                ingress_app(settings, connection, store, seals, Metrics()) as (app, edge),
            ):
                stop.then(edge.close_all)
                started()
                await serve(app, listener, stop)
    finally:
        await store.close()


def worker(port: Port = None) -> None:
    """Answers messages as a member of the consumer group; needs Kafka and Redis. Start more to scale."""
    run(_worker(prepare(worker_port=port)))


async def _worker(settings: Settings) -> None:
    from ops.processes.worker import running_worker
    from ops.processes.worker_http import worker_http

    stop = StopSignal()
    connection = wiring.kafka_connection(settings)
    store = wiring.shared_session_store(settings, watch_for_loss=True)
    metrics = Metrics()
    try:
        async with (
            wiring.session_keys(settings, connection) as seals,
            running_worker(settings, connection, store, seals, metrics, on_failure=stop.fail) as running,
        ):
            started()
            if not settings.worker_port:
                await stop.wait()
                stop.raise_failure()
                return
            app = worker_http(settings, running, store, metrics)
            with listen(settings.api_host, settings.worker_port) as listener:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(serve(app, listener, stop))
                    await stop.wait()
            stop.raise_failure()
    finally:
        await store.close()
