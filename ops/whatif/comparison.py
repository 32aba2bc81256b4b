"""The answer that a message got beside the one that it would get now. Pure: no clock, no I/O."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from schemas.replies import Citation, Reply

Kind = Literal["same", "changed", "newly_answered", "newly_refused"]
KINDS: tuple[Kind, ...] = ("newly_refused", "newly_answered", "changed", "same")
"""What a person should look at first, first."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One customer's message and both replies to it."""

    message_id: str
    session_id: str
    answered_at: str
    """When the reply of the time was made; RFC 3339."""
    question: str
    before: Reply
    after: Reply

    @property
    def kind(self) -> Kind:
        return kind_of(self.before, self.after)


@dataclass(frozen=True, slots=True)
class CitedDocument:
    """A document that at least one of two replies cites, with the best score of its passages in each; None: the reply
    does not cite it."""

    doc_id: str
    title: str
    before: float | None
    after: float | None


def kind_of(before: Reply, after: Reply) -> Kind:
    """What became of an answer. Two refusals are the same, or changed, like two answers."""
    refused, refuses = is_refusal(before), is_refusal(after)
    if refused != refuses:
        return "newly_refused" if refuses else "newly_answered"
    return "same" if _reads_alike(before, after) else "changed"


def is_refusal(reply: Reply) -> bool:
    """Whether the reply offers a person in place of an answer.

    An event has no `workers.generation.protocol.Answer.offers_person`, yet it shows in it: whoever looked into the
    knowledge (the reply names its version) answers with what was found, and cites it. A reply that looked and cites
    nothing found nothing that it trusts, or was asked for a person. A generator that looks nothing up refuses nothing.
    """
    return reply.kb_version is not None and not reply.citations


def _reads_alike(one: Reply, other: Reply) -> bool:
    """Whether a customer sees no difference: scores and versions are not shown."""
    return one.text == other.text and _shown(one.citations) == _shown(other.citations)


def _shown(citations: Iterable[Citation]) -> list[tuple[str, str, str | None, str]]:
    return [(each.doc_id, each.title, each.url, each.passage) for each in citations]


def cited_documents(before: Reply, after: Reply) -> list[CitedDocument]:
    """The documents of both replies: those of `before` in their order, then those that only `after` cites."""
    scores_before, scores_after = _best_scores(before), _best_scores(after)
    # The newer title of a document that has both.
    titles = {each.doc_id: each.title for each in (*before.citations, *after.citations)}
    return [
        CitedDocument(doc_id, titles[doc_id], scores_before.get(doc_id), scores_after.get(doc_id))
        for doc_id in {**scores_before, **scores_after}
    ]


def _best_scores(reply: Reply) -> Mapping[str, float]:
    best: dict[str, float] = {}
    for citation in reply.citations:
        best[citation.doc_id] = max(citation.score, best.get(citation.doc_id, -1.0))
    return best


def counts(comparisons: Iterable[Comparison]) -> dict[Kind, int]:
    """How many there are of every kind, in the order of `KINDS`."""
    counted = Counter(each.kind for each in comparisons)
    return {kind: counted[kind] for kind in KINDS}
