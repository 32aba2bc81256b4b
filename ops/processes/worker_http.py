"""The worker's own small HTTP port: `/health*` and `/metrics`."""

from fastapi import FastAPI
from fastapi.responses import Response

from ingress.health import health_router
from ingress.middleware import ResponseHeaders, install_error_handlers
from ops.metrics import Metrics
from ops.processes.worker import RunningWorker
from ops.settings import Settings
from ops.store_report import store_report
from store.protocol import SessionStore


def worker_http(settings: Settings, worker: RunningWorker, store: SessionStore, metrics: Metrics) -> ResponseHeaders:
    async def describe() -> dict[str, object]:
        return {
            "partitions": sorted(str(partition) for partition in worker.dispatcher.assignments),
            "open_records": worker.dispatcher.open_records,
            "lag": worker.app.lag(),
            "knowledge": worker.knowledge(),
            "session_store": store_report(settings, await store.get_stats(), store.describe_locks(), worker.cache),
        }

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app, debug=False)
    ready = {
        "partitions": worker.ready,
        "session_store": store.ping,
        "kafka": worker.check_kafka,
        "group": worker.check_group,
    }
    app.include_router(health_router(ready, {"progress": worker.live}, describe))

    @app.get("/metrics")
    async def show_metrics() -> Response:
        body, content_type = metrics.render()
        return Response(body, headers={"content-type": content_type})

    return ResponseHeaders(app)
