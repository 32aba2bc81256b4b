"""The outline of a text or Markdown document: title, link, and paragraphs under their headings. Pure.

Understands what help articles use: `#` headings, blank-line paragraphs, list items, fenced code, and front
matter with `title:` and `url:`. Plain text is a document without headings.
"""

import re
from dataclasses import dataclass, field

_HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+(?=\S)")
_FRONT_MATTER_LINE = re.compile(r"^([A-Za-z_][\w-]*):\s*(.*?)\s*$")


@dataclass(slots=True)
class Section:
    """What stands under one heading; `heading` is empty before the first."""

    heading: str
    paragraphs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outline:
    """A document as its author structured it. `title` and `url` are None where it names none."""

    title: str | None
    url: str | None
    sections: list[Section]


def parse_outline(text: str) -> Outline:
    """Reads a document. Never fails: what is not Markdown is a paragraph."""
    lines = text.splitlines()
    metadata, first = _front_matter(lines)
    reader = _Reader()
    for line in lines[first:]:
        reader.feed(line)
    sections, heading_title = reader.finish()
    return Outline(metadata.get("title") or heading_title, metadata.get("url") or None, sections)


class _Reader:
    """Line by line: the open paragraph, the open section, and whether a code fence is open."""

    def __init__(self) -> None:
        self._sections = [Section("")]
        self._lines: list[str] = []
        self._fence: str | None = None
        self._title: str | None = None

    def feed(self, line: str) -> None:
        fence = _FENCE.match(line)
        if fence and self._fence in (None, fence[1]):
            self._fence = None if self._fence else fence[1]
            self._lines.append(line)
        elif self._fence:
            self._lines.append(line)
        elif heading := _HEADING.match(line):
            self._close_paragraph()
            self._open_section(len(heading[1]), heading[2])
        elif not line.strip():
            self._close_paragraph()
        elif _LIST_ITEM.match(line):
            self._close_paragraph()
            self._lines.append(line)
        else:
            self._lines.append(line)

    def finish(self) -> tuple[list[Section], str | None]:
        self._close_paragraph()
        return [section for section in self._sections if section.heading or section.paragraphs], self._title

    def _open_section(self, level: int, heading: str) -> None:
        if level == 1 and self._title is None and heading:
            self._title = heading
        self._sections.append(Section(heading))

    def _close_paragraph(self) -> None:
        paragraph = " ".join(" ".join(self._lines).split())
        self._lines.clear()
        if paragraph:
            self._sections[-1].paragraphs.append(paragraph)


def _front_matter(lines: list[str]) -> tuple[dict[str, str], int]:
    """Keys and values between two `---` lines at the top, and the number of the first line after them."""
    if not lines or lines[0].strip() != "---":
        return {}, 0
    values: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=1):
        if line.strip() == "---":
            return values, number + 1
        match = _FRONT_MATTER_LINE.match(line)
        if not match:
            break
        values[match[1].lower()] = match[2].strip("\"'")
    return {}, 0
