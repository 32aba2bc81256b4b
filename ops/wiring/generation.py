"""What answers."""

from ops.settings import Settings
from workers.generation.extractive import ExtractiveGenerator
from workers.generation.null import NullGenerator
from workers.generation.protocol import Generator


def generator_of(settings: Settings) -> Generator:
    """What makes the answers."""
    if settings.generator == "null":
        return NullGenerator()
    return ExtractiveGenerator(pace_words_per_second=settings.answer_pace_words_per_second)
