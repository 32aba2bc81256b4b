"""The comparisons as one HTML page that needs nothing else. All that customers, documents and files say is escaped."""

from collections.abc import Sequence
from html import escape

from ops.page import page_of
from ops.whatif.comparison import KINDS, CitedDocument, Comparison, Kind, cited_documents, counts, is_refusal
from schemas.replies import Reply

HEADINGS: dict[Kind, str] = {
    "newly_refused": "Newly refused",
    "newly_answered": "Newly answered",
    "changed": "Changed",
    "same": "Same",
}

_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--raised:#f6f7f6;--line:#dfe3e1;--ink:#1b211f;--soft:#5a6561;
 --newly_refused:#b3261e;--newly_answered:#0f6e63;--changed:#8a5300;--same:#5a6561}
@media(prefers-color-scheme:dark){:root{--ground:#14181b;--raised:#1d2326;--line:#30383b;--ink:#e9eeec;--soft:#a3afab;
 --newly_refused:#ff9b92;--newly_answered:#5cc7b5;--changed:#f1c27a;--same:#a3afab}}
*{box-sizing:border-box}
body{background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:68rem;
 padding:1.25rem 1rem 3rem}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .25rem}
h2{font-size:1.125rem;margin:2.25rem 0 .75rem}
h3{font-size:1rem;margin:0;overflow-wrap:anywhere;white-space:pre-wrap}
p{margin:.25rem 0}
.soft{color:var(--soft);font-size:.875rem;overflow-wrap:anywhere}
nav{display:grid;gap:.75rem;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));margin:1.25rem 0 0}
nav a{background:var(--raised);border:1px solid var(--line);border-radius:.5rem;border-top:.25rem solid var(--kind);
 color:inherit;padding:.5rem .75rem;text-decoration:none}
nav b{display:block;font-size:1.75rem;font-variant-numeric:tabular-nums;line-height:1.2}
article{border:1px solid var(--line);border-left:.25rem solid var(--kind);border-radius:.5rem;margin:0 0 1rem;
 padding:.875rem 1rem}
.sides{display:grid;gap:.75rem;grid-template-columns:1fr 1fr;margin:.75rem 0 0}
.sides div{background:var(--raised);border-radius:.375rem;padding:.625rem .75rem}
.sides div:only-child{grid-column:1/-1}
.sides p{overflow-wrap:anywhere;white-space:pre-wrap}
h4{color:var(--soft);font-size:.8125rem;font-weight:600;margin:0 0 .25rem}
table{border-collapse:collapse;margin:.75rem 0 0;width:100%}
th{color:var(--soft);font-size:.8125rem;font-weight:600}
td,th{border-bottom:1px solid var(--line);padding:.3rem .75rem .3rem 0;text-align:left;vertical-align:top}
tr:last-child td{border-bottom:0}
td{overflow-wrap:anywhere}
td.score,th.score{padding-right:0;text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap;width:4.5rem}
summary{cursor:pointer;padding:.5rem 0}
@media(max-width:40rem){.sides{grid-template-columns:1fr}nav{grid-template-columns:1fr 1fr}
 body{padding:1rem .75rem 2rem}td.score,th.score{width:3.75rem}}
"""


def page(facts: Sequence[str], comparisons: Sequence[Comparison]) -> str:
    """A document with a count for every kind, and under it each comparison: what had to be looked at first, first.

    `facts` are sentences about the run: which messages, and what answered them again.
    """
    counted = counts(comparisons)
    tiles = "".join(_tile(kind, count) for kind, count in counted.items())
    sections = "".join(_section(kind, [each for each in comparisons if each.kind == kind]) for kind in KINDS)
    body = (
        f"<header><h1>What if</h1>{''.join(f'<p class=soft>{escape(fact)}</p>' for fact in facts)}<nav>{tiles}</nav>"
        f"</header><main>{sections}</main>"
    )
    return page_of("What if", _STYLE, body)


def _tile(kind: Kind, count: int) -> str:
    leads_to = f' href="#{kind}"' if count else ""
    return f'<a{leads_to} style="--kind:var(--{kind})"><b>{count:,}</b>{HEADINGS[kind]}</a>'


def _section(kind: Kind, comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return ""
    heading = f'<h2 id="{kind}">{HEADINGS[kind]}: {len(comparisons):,}</h2>'
    articles = "".join(f'<article style="--kind:var(--{kind})">{_article(each)}</article>' for each in comparisons)
    if kind == "same":
        return f"{heading}<details><summary>Show what stays as it is</summary>{articles}</details>"
    return heading + articles


def _article(each: Comparison) -> str:
    if each.kind == "same":
        sides = _side("before and after", each.after)
    else:
        sides = _side("before", each.before) + _side("after", each.after)
    return (
        f'<h3 dir="auto">{escape(each.question)}</h3>'
        f'<p class="soft">session {escape(each.session_id)}, message {escape(each.message_id)}, '
        f"{escape(each.answered_at)}</p>"
        f'<div class="sides">{sides}</div>{_citations(cited_documents(each.before, each.after))}'
    )


def _side(name: str, reply: Reply) -> str:
    refused = ", refused" if is_refusal(reply) else ""
    return f'<div><h4>{name}: {escape(reply.generator)}{refused}</h4><p dir="auto">{escape(reply.text)}</p></div>'


def _citations(documents: Sequence[CitedDocument]) -> str:
    if not documents:
        return ""
    rows = "".join(
        f'<tr><td>{escape(each.title)}<br><span class="soft">{escape(each.doc_id)}</span></td>'
        f'<td class="score">{score(each.before)}</td><td class="score">{score(each.after)}</td></tr>'
        for each in documents
    )
    return (
        '<table><tr><th>cited document</th><th class="score">before</th><th class="score">after</th></tr>'
        f"{rows}</table>"
    )


def score(value: float | None) -> str:
    """A cosine as people are shown it; a dash where there is none."""
    return "–" if value is None else f"{value:.3f}"
