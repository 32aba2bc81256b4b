"""A generator that says the same thing to everyone: what is left of a turn when generating costs nothing."""

from workers.generation.protocol import Answer, Emit, Question


class NullGenerator:
    """Answers at once with `text`, without knowledge and without deltas."""

    name = "null"
    retrieves = False

    def __init__(self, text: str = "Thank you, we have received your message.") -> None:
        self._answer = Answer(text)

    async def generate(self, question: Question, emit: Emit) -> Answer:
        return self._answer
