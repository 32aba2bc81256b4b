import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.replies import Citation, CustomerMessage
from workers.generation.claims import MAX_CLAIMS, MAX_SOURCES, choose_claims
from workers.generation.extractive import ExtractiveGenerator
from workers.generation.intent import asks_for_person
from workers.generation.null import NullGenerator
from workers.generation.pacing import word_groups
from workers.generation.protocol import Answer, Question, Retrieval


def _passage(text: str, score: float = 0.6, doc_id: str = "a") -> Citation:
    return Citation(doc_id=doc_id, title=doc_id, passage=text, score=score)


PASSAGES = st.lists(
    st.builds(
        _passage,
        st.lists(st.sampled_from(["Refunds take days.", "It is red.", "We ship.", "Pay by card!"])).map(" ".join),
        st.floats(-1, 1),
        st.sampled_from("abcd"),
    ),
    max_size=6,
).map(lambda passages: sorted(passages, key=lambda passage: -passage.score))


@given(st.text(min_size=1, max_size=60), PASSAGES)
def test_every_number_in_the_text_is_a_citation_and_every_citation_is_used(text: str, passages: list[Citation]) -> None:
    answer = ExtractiveGenerator().answer(text, passages)
    numbers = {int(number) for number in re.findall(r"\[(\d+)\]", answer.text)}
    assert numbers == set(range(1, len(answer.citations) + 1))
    assert answer.offers_person == (not answer.citations)
    assert answer.confidence is None or 0 <= answer.confidence <= 1
    assert len({citation.doc_id for citation in answer.citations}) <= MAX_SOURCES


def test_only_the_sentences_that_fit_are_said() -> None:
    passage = _passage("Our shop is old. Refunds take five days. The office is blue. Tea is free.")
    answer = ExtractiveGenerator().answer("How long do refunds take?", [passage])
    assert "Refunds take five days. [1]" in answer.text
    assert "blue" not in answer.text


def test_a_sentence_that_refers_back_brings_the_one_before() -> None:
    [claim] = choose_claims("What does it show?", [_passage("Open the tracking page. It shows the status.")])
    assert claim.text == "Open the tracking page. It shows the status."


def test_equal_claims_are_said_once_with_both_sources() -> None:
    passages = [_passage("Refunds take five days.", 0.7, "a"), _passage("Refunds take five days!", 0.69, "b")]
    answer = ExtractiveGenerator().answer("refunds", passages)
    assert "[1][2]" in answer.text
    assert [citation.doc_id for citation in answer.citations] == ["a", "b"]


def test_a_far_second_document_is_left_out() -> None:
    passages = [_passage("Refunds take five days.", 0.7, "a"), _passage("Parcels take two days.", 0.4, "b")]
    assert len(ExtractiveGenerator().answer("How many days?", passages).citations) == 1


def test_at_most_three_claims() -> None:
    passage = _passage("Red days. Green days. Blue days. White days. Black days.")
    assert len(choose_claims("days", [passage])) <= MAX_CLAIMS


def test_below_the_threshold_it_says_that_it_does_not_know() -> None:
    answer = ExtractiveGenerator(knows_from_cosine=0.5).answer("What?", [_passage("Text.", 0.49)])
    assert answer.offers_person
    assert answer.citations == []
    assert "don't know" in answer.text
    assert answer.confidence is not None
    assert answer.confidence < 0.5


@pytest.mark.parametrize(
    "text",
    [
        "I want to talk to a person",
        "I'd rather talk to a person, please.",
        "Can I speak with a human?",
        "Please connect me to an agent",
        "Let me talk to someone",
        "agent",
        "Human please!",
        "I need a real person",
        "transfer me to your supervisor",
    ],
)
def test_a_request_for_a_person_is_understood(text: str) -> None:
    assert asks_for_person(text)
    assert ExtractiveGenerator().answer(text, [_passage("Text.", 0.9)]).offers_person


@pytest.mark.parametrize(
    "text",
    [
        "How do I get my money back?",
        "At what time can I reach somebody on the phone?",
        "When can I talk to someone?",
        "Is my personal data safe?",
        "Do you share data with any person outside?",
        "I need a manager's signature on the invoice",
    ],
)
def test_a_question_is_no_request_for_a_person(text: str) -> None:
    assert not asks_for_person(text)


def _generated(generator: ExtractiveGenerator | NullGenerator) -> tuple[Answer, list[str]]:
    emitted: list[str] = []

    async def emit(piece: str) -> None:
        emitted.append(piece)

    message = CustomerMessage(id="1", text="refunds")
    question = Question(message, None, Retrieval([_passage("Refunds take five days.")]))
    return asyncio.run(generator.generate(question, emit)), emitted


def test_paced_pieces_are_the_answer() -> None:
    answer, emitted = _generated(ExtractiveGenerator(pace_words_per_second=10_000))
    assert len(emitted) > 1
    assert "".join(emitted) == answer.text


def test_without_a_pace_nothing_is_emitted() -> None:
    assert _generated(ExtractiveGenerator())[1] == []


def test_null_says_the_same_without_retrieving() -> None:
    answer, emitted = _generated(NullGenerator("Hello."))
    assert (answer.text, emitted, NullGenerator.retrieves) == ("Hello.", [], False)


@given(st.text(max_size=80))
def test_word_groups_lose_nothing(text: str) -> None:
    assert "".join(word_groups(text)) == text


@pytest.mark.parametrize("settings", [{"pace_words_per_second": -1.0}, {"knows_from_cosine": 2.0}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        ExtractiveGenerator(**settings)
