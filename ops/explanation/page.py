"""Timelines as one HTML page that needs nothing else. All that customers wrote is escaped."""

from collections.abc import Sequence
from html import escape

from ops.explanation.timeline import Step, Timeline
from ops.page import page_of

_STYLE = """
:root{color-scheme:light dark;--line:#8883;--soft:#8881}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:52rem;padding:1rem}
article{border:1px solid var(--line);border-radius:.5rem;margin:1rem 0;padding:1rem}
h1{font-size:1.25rem}h2{font-size:1rem;margin:0 0 .5rem;overflow-wrap:anywhere}
blockquote{background:var(--soft);border-left:.25rem solid var(--line);margin:.5rem 0;padding:.5rem .75rem;
 white-space:pre-wrap;overflow-wrap:anywhere}
ol{list-style:none;margin:1rem 0;padding:0}
li{border-left:.125rem solid var(--line);padding:.25rem 0 .25rem .75rem;overflow-wrap:anywhere}
li span{white-space:nowrap}li b{display:inline-block;min-width:10rem}
small{opacity:.75}
table{border-collapse:collapse;width:100%}td,th{border-top:1px solid var(--line);padding:.25rem .5rem .25rem 0;
 text-align:left;vertical-align:top;overflow-wrap:anywhere}
td:last-child,th:last-child{text-align:right;white-space:nowrap}
"""


def page(wanted: str, timelines: Sequence[Timeline]) -> str:
    """A document about what was asked for."""
    title = f"Explain {escape(wanted)}"
    return page_of(title, _STYLE, f"<h1>{title}</h1>{''.join(map(_article, timelines))}")


def _article(each: Timeline) -> str:
    total = f" in {each.total_ms:,.0f} ms" if each.total_ms is not None else ""
    parts = [
        f"<article><h2>{escape(each.message_id)}: {escape(each.outcome)}{total}</h2>",
        f"<small>session {escape(each.session_id or 'unknown')}</small>",
    ]
    parts += [f"<blockquote>{escape(text)}</blockquote>" for text in (each.question, each.reply) if text is not None]
    parts.append(f"<ol>{''.join(map(_step, each.steps))}</ol>")
    if each.citations:
        rows = "".join(
            f"<tr><td>{number}</td><td>{escape(citation.title)}<br><small>{escape(citation.passage)}</small></td>"
            f"<td>{citation.score:.3f}</td></tr>"
            for number, citation in enumerate(each.citations, 1)
        )
        parts.append(f"<table><tr><th></th><th>passage</th><th>score</th></tr>{rows}</table>")
    return "".join([*parts, "</article>"])


def _step(step: Step) -> str:
    when = step.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if step.at else ""
    took = f"{step.took_ms:,.1f} ms" if step.took_ms is not None else ""
    detail = f"<span>{' '.join(filter(None, (when, took)))}</span>"
    what = f"<br>{escape(step.what)}" if step.what else ""
    return f"<li><b>{escape(step.name)}</b> {detail}<small>{what}</small></li>"
