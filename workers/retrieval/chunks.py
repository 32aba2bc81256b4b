"""A document into passages: small enough to embed and cite whole, large enough to make sense alone. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from workers.retrieval.markdown import Section, parse_outline
from workers.retrieval.sentences import split_sentences

MIN_PASSAGE_WORDS = 40
"""A passage may end at a paragraph's end once it has this many; shorter only where a section has no more."""
MAX_PASSAGE_WORDS = 120
"""About 160 tokens, well inside the 256 that all-MiniLM-L6-v2 reads."""
_CHARACTERS_PER_WORD = 20


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage, and the heading that it stands under (empty where that is the document's title)."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class SplitDocument:
    title: str
    url: str | None
    chunks: list[Chunk]


def split_document(text: str, fallback_title: str) -> SplitDocument:
    """Title, link and passages of a text or Markdown document.

    All text is in exactly one passage, in order, but for white space, front matter and heading marks.
    Sentences stay whole unless one alone is longer than a passage may be. The title is the front matter's or
    the first `# heading`.
    """
    outline = parse_outline(text)
    title = outline.title or fallback_title
    chunks: list[Chunk] = []
    for section in outline.sections:
        heading = "" if section.heading == title else section.heading
        chunks.extend(Chunk(heading, passage) for passage in _passages(section))
        if heading and not section.paragraphs:
            chunks.append(Chunk("", heading))
    return SplitDocument(title, outline.url, chunks)


def word_count(text: str) -> int:
    """Words, where a very long one (a link, a script without spaces) counts once per 20 characters."""
    return sum(-(-len(word) // _CHARACTERS_PER_WORD) for word in text.split())


def _passages(section: Section) -> list[str]:
    passages: list[list[str]] = []
    open_passage: list[str] = []
    size = 0
    for paragraph in section.paragraphs:
        for sentence in _bounded_sentences(paragraph):
            words = word_count(sentence)
            if open_passage and size + words > MAX_PASSAGE_WORDS:
                passages.append(open_passage)
                open_passage, size = [], 0
            open_passage.append(sentence)
            size += words
        if size >= MIN_PASSAGE_WORDS:
            passages.append(open_passage)
            open_passage, size = [], 0
    if open_passage:
        # A short rest reads better at the end of what it belongs to than alone.
        if passages and size + sum(map(word_count, passages[-1])) <= MAX_PASSAGE_WORDS:
            passages[-1].extend(open_passage)
        else:
            passages.append(open_passage)
    return [" ".join(sentences) for sentences in passages]


def _bounded_sentences(paragraph: str) -> Iterator[str]:
    for sentence in split_sentences(paragraph):
        if word_count(sentence) <= MAX_PASSAGE_WORDS:
            yield sentence
        else:
            yield from _cut(sentence)


def _cut(sentence: str) -> Iterator[str]:
    """Pieces of at most `MAX_PASSAGE_WORDS`, for a table row or a text without punctuation."""
    longest_word = MAX_PASSAGE_WORDS * _CHARACTERS_PER_WORD
    piece: list[str] = []
    size = 0
    for word in sentence.split():
        for start in range(0, len(word), longest_word):
            part = word[start : start + longest_word]
            words = word_count(part)
            if piece and size + words > MAX_PASSAGE_WORDS:
                yield " ".join(piece)
                piece, size = [], 0
            piece.append(part)
            size += words
    yield " ".join(piece)
