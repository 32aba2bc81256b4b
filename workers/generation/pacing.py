"""An answer as a stream of small pieces, at the pace of somebody who types."""

import asyncio
import re

from workers.generation.protocol import Emit

_GROUP = re.compile(r"(?:\s*\S+){1,3}\s*?", re.DOTALL)
_WORDS_PER_GROUP = 3


async def emit_paced(text: str, words_per_second: float, emit: Emit) -> None:
    """Emits `text` in groups of up to three words; the pieces joined are the text. Does not wait after the
    last.

    `words_per_second` must be above 0.
    """
    groups = word_groups(text)
    for number, group in enumerate(groups):
        if number:
            await asyncio.sleep(_WORDS_PER_GROUP / words_per_second)
        await emit(group)


def word_groups(text: str) -> list[str]:
    """Pieces of up to three words that joined are `text`."""
    groups = [match.group() for match in _GROUP.finditer(text)]
    rest = text[sum(map(len, groups)) :]
    if not groups:
        return [text] if text else []
    groups[-1] += rest
    return groups
