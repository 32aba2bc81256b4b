"""Which sentences of the passages answer a question. Lexical and cheap: the embedding has already been paid
for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.replies import Citation
from workers.retrieval.sentences import split_sentences

MAX_CLAIMS = 3
MAX_SOURCES = 2
_SOURCE_MARGIN = 0.12
"""A second document is used only this close (in cosine) to the best, and not because it was merely next."""
_OVERLAP_WEIGHT = 0.3
_POSITION_WEIGHT = 0.02
_CLAIM_MARGIN = 0.12
_SAME_SHARE = 0.7
_MAX_CLAIM_CHARACTERS = 400

_WORD = re.compile(r"[a-z0-9]+(?:['\u2019][a-z]+)?")
_REFERS_BACK = re.compile(r"(?:it|they|this|these|those|that|then|(?:we|you) then)\b", re.IGNORECASE)
_STOP_WORDS = frozenset(
    """
    a about all also am an and any are as at be been but by can could did do does for from get had has
    have he her here him his how i i'd i'll i'm i've if in into is it its just may me might my no not of
    on or our out please shall she should so some than that the their them then there these they this
    those to too up us was we were what what's when where which who why will with would you your
    """.split()  # noqa: SIM905 - a list of this many literals is not readable
)
_SUFFIXES = ("ings", "ing", "ies", "ied", "ers", "ed", "er", "es", "s", "y", "e")


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence, and the passages that say it: positions in the list that was given."""

    text: str
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    text: str
    words: frozenset[str]
    source: int
    position: int
    score: float


def choose_claims(question: str, passages: Sequence[Citation]) -> list[Claim]:
    """One to `MAX_CLAIMS` sentences from at most `MAX_SOURCES` documents, in the order of the passages.

    A sentence's score is its passage's cosine, plus its share of the question's words. Passages must be best
    first. Nearly equal sentences become one claim with several sources. Empty only when no passage has any
    text.
    """
    asked = content_words(question)
    candidates = [
        _Candidate(sentence, content_words(sentence), source, position, 0.0)
        for source in _sources(passages)
        for position, sentence in enumerate(_statements(passages[source].passage))
    ]
    scored = [_scored(candidate, asked, passages[candidate.source].score) for candidate in candidates]
    scored.sort(key=lambda candidate: -candidate.score)
    chosen: list[tuple[_Candidate, list[int]]] = []
    for candidate in scored:
        if same := next((sources for other, sources in chosen if _same(other, candidate)), None):
            if candidate.source not in same:
                same.append(candidate.source)
        elif len(chosen) < MAX_CLAIMS and candidate.score >= scored[0].score - _CLAIM_MARGIN:
            chosen.append((candidate, [candidate.source]))
    chosen.sort(key=lambda claim: (claim[0].source, claim[0].position))
    return [Claim(_shortened(candidate.text), tuple(sorted(sources))) for candidate, sources in chosen]


def content_words(text: str) -> frozenset[str]:
    """The words that carry meaning, roughly stemmed so that "returns" meets "return"."""
    return frozenset(_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS)


def _sources(passages: Sequence[Citation]) -> list[int]:
    if not passages:
        return []
    documents: list[str] = []
    sources: list[int] = []
    for number, passage in enumerate(passages):
        if passage.score < passages[0].score - _SOURCE_MARGIN:
            break
        if passage.doc_id not in documents:
            if len(documents) == MAX_SOURCES:
                continue
            documents.append(passage.doc_id)
        sources.append(number)
    return sources


def _statements(passage: str) -> list[str]:
    """Its sentences, those that need the one before to make sense joined to it."""
    statements: list[str] = []
    for sentence in split_sentences(passage):
        if statements and _REFERS_BACK.match(sentence):
            statements[-1] += " " + sentence
        else:
            statements.append(sentence)
    return statements


def _scored(candidate: _Candidate, asked: frozenset[str], passage_score: float) -> _Candidate:
    overlap = len(candidate.words & asked) / len(asked) if asked else 0.0
    # Writers of help pages say the main thing first.
    score = passage_score + _OVERLAP_WEIGHT * overlap - _POSITION_WEIGHT * candidate.position
    return _Candidate(candidate.text, candidate.words, candidate.source, candidate.position, score)


def _same(one: _Candidate, other: _Candidate) -> bool:
    if not one.words or not other.words:
        return one.text == other.text
    return len(one.words & other.words) / len(one.words | other.words) >= _SAME_SHARE


def _shortened(sentence: str) -> str:
    if len(sentence) <= _MAX_CLAIM_CHARACTERS:
        return sentence
    return sentence[:_MAX_CLAIM_CHARACTERS].rsplit(" ", 1)[0] + " …"


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word
