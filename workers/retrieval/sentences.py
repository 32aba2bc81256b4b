"""Plain text into sentences. Pure."""

import re

_ABBREVIATIONS = frozenset(
    {"e.g.", "i.e.", "etc.", "vs.", "mr.", "mrs.", "ms.", "dr.", "no.", "approx.", "a.m.", "p.m."}
)
_LONGEST_ABBREVIATION = max(map(len, _ABBREVIATIONS))
_END = re.compile(r"(?:[.!?…]+[\"'\u201d\u2019)\]]*(?=\s)|[\u3002\uff01\uff1f]+)\s*")


def split_sentences(text: str) -> list[str]:
    """The sentences of one paragraph, in order, trimmed, none empty.

    Only white space is lost, and runs of it inside a sentence become one space. A full stop ends a sentence
    when white space follows and neither an abbreviation nor a lower-case word suggests otherwise.
    """
    sentences: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if _continues(text, start, match):
            continue
        _append(sentences, text[start : match.end()])
        start = match.end()
    _append(sentences, text[start:])
    return sentences


def _continues(text: str, start: int, match: re.Match[str]) -> bool:
    following = text[match.end() : match.end() + 1]
    if following.islower():
        return True
    # The last word is enough: a slice from the start would make a long text quadratic.
    words = text[max(start, match.end() - _LONGEST_ABBREVIATION - 1) : match.end()].split()
    return bool(words) and words[-1].lower() in _ABBREVIATIONS


def _append(sentences: list[str], raw: str) -> None:
    sentence = " ".join(raw.split())
    if sentence:
        sentences.append(sentence)
