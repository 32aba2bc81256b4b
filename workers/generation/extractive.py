"""Generator `extractive`: answers in the words of the knowledge base, every claim with its source."""

import math
from collections.abc import Sequence

from schemas.replies import Citation
from workers.generation.claims import Claim, choose_claims
from workers.generation.intent import asks_for_person
from workers.generation.pacing import emit_paced
from workers.generation.protocol import Answer, Emit, Question

KNOWS_FROM_COSINE = 0.26
"""Below it the best passage is about something else: the middle between questions inside and outside the
scope of the sample knowledge, on the half of `tests/unit/retrieval/questions.py` that is for choosing it."""
_STEEPNESS = 14.0

_PERSON = "Of course. I can bring in a person from our team to help you with this."
_UNKNOWN = (
    "I'm sorry, I don't know the answer to that, and I'd rather not guess. "
    "Would you like me to bring in a person from our team?"
)
_OPENING = "Happy to help!"
_UNSURE_OPENING = "This is the closest that I found:"
_UNSURE_CLOSING = "If that isn't what you meant, tell me a little more, or ask for a person."
_SURE_FROM_CONFIDENCE = 0.75


class ExtractiveGenerator:
    """Composes the reply from the sentences that fit the question best; never says what no passage says.

    `pace_words_per_second` above 0 streams the reply at that pace; 0 returns it whole, without deltas.
    `knows_from_cosine` is where it begins to trust a passage.

    Raises:
        ValueError: a negative pace, or a threshold outside 0 to 1.
    """

    name = "extractive"
    retrieves = True

    def __init__(self, *, pace_words_per_second: float = 0.0, knows_from_cosine: float = KNOWS_FROM_COSINE) -> None:
        if not (math.isfinite(pace_words_per_second) and pace_words_per_second >= 0):
            raise ValueError("pace_words_per_second must be 0 or more")
        if not 0 <= knows_from_cosine <= 1:
            raise ValueError("knows_from_cosine must be from 0 to 1")
        self._pace = pace_words_per_second
        self._threshold = knows_from_cosine

    async def generate(self, question: Question, emit: Emit) -> Answer:
        answer = self.answer(question.message.text, question.retrieval.passages)
        if self._pace > 0:
            await emit_paced(answer.text, self._pace, emit)
        return answer

    def answer(self, text: str, passages: Sequence[Citation]) -> Answer:
        """The answer to `text` from `passages`, best first. Pure; takes a few hundred microseconds at
        most."""
        if asks_for_person(text):
            return Answer(_PERSON, offers_person=True, escalates=True)
        confidence = self.confidence(passages[0].score) if passages else 0.0
        if not passages or passages[0].score < self._threshold:
            return Answer(_UNKNOWN, confidence=confidence, offers_person=True)
        claims = choose_claims(text, passages)
        if not claims:
            return Answer(_UNKNOWN, confidence=0.0, offers_person=True)
        return _compose(claims, passages, confidence)

    def confidence(self, cosine: float) -> float:
        """0 to 1 from the best passage's cosine: a logistic curve through 0.5 at the threshold."""
        return round(1 / (1 + math.exp(-_STEEPNESS * (cosine - self._threshold))), 3)


def _compose(claims: list[Claim], passages: Sequence[Citation], confidence: float) -> Answer:
    numbers: dict[int, int] = {}
    # The best passage is cited first, whichever sentence is said first.
    for source in sorted({source for claim in claims for source in claim.sources}):
        numbers[source] = len(numbers) + 1
    said = [claim.text + " " + "".join(f"[{numbers[source]}]" for source in claim.sources) for claim in claims]
    sure = confidence >= _SURE_FROM_CONFIDENCE
    parts = [_OPENING, *said] if sure else [_UNSURE_OPENING, *said, _UNSURE_CLOSING]
    return Answer(" ".join(parts), [passages[source] for source in numbers], confidence)
