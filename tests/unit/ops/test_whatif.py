"""What became of an answer: which kind of difference, which documents, and the page that shows it."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from ops.errors import UsageError
from ops.whatif.comparison import (
    KINDS,
    CitedDocument,
    Comparison,
    Kind,
    cited_documents,
    counts,
    is_refusal,
    kind_of,
)
from ops.whatif.knowledge import knowledge_files
from ops.whatif.page import page
from ops.whatif.run import answered_again
from ops.whatif.selection import NewestTurns
from schemas.replies import Citation, Reply, TurnCompleted
from tests.recorded import Recorded
from workers.generation.extractive import ExtractiveGenerator
from workers.generation.null import NullGenerator
from workers.generation.protocol import Answer, Emit, Question, Retrieval

CANARY = "<script>alert('canary')</script>"
REFUNDS = Citation(doc_id="refunds.md", title="Refunds", passage="You get your money back in 30 days.", score=0.6)
SHIPPING = Citation(doc_id="shipping.md", title="Shipping", passage="Parcels take three days.", score=0.5)
FAR_OFF = replace(REFUNDS, score=0.1)


def answer(text: str = "In 30 days. [1]", *citations: Citation, kb_version: str | None = "v1") -> Reply:
    return Reply(text=text, citations=list(citations or (REFUNDS,)), generator="extractive", kb_version=kb_version)


def refusal(text: str = "I don't know.", kb_version: str = "v1") -> Reply:
    return Reply(text=text, generator="extractive", kb_version=kb_version, confidence=0.1)


def comparison(before: Reply, after: Reply, question: str = "When?") -> Comparison:
    return Comparison("m-1", "s-1", "2026-11-24T12:00:00.000Z", question, before, after)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (answer(), answer(), "same"),
        (answer(), answer(kb_version="v2"), "same"),
        (answer(), answer("In 30 days. [1]", replace(REFUNDS, score=0.61)), "same"),
        (refusal(), refusal(kb_version="v2"), "same"),
        (answer(), answer("In 14 days. [1]"), "changed"),
        (answer(), answer("In 30 days. [1]", replace(REFUNDS, title="Money back")), "changed"),
        (answer(), answer("In 30 days. [1]", replace(REFUNDS, passage="Other words.")), "changed"),
        (refusal(), refusal("No idea."), "changed"),
        (refusal(), answer(), "newly_answered"),
        (answer(), refusal(), "newly_refused"),
    ],
)
def test_an_answer_is_the_same_changed_new_or_gone(before: Reply, after: Reply, kind: Kind) -> None:
    assert kind_of(before, after) == kind


@pytest.mark.parametrize("text", ["How do I get my money back?", "I want to talk to a human", "Human", "???"])
@pytest.mark.parametrize("passages", [[], [FAR_OFF], [REFUNDS], [REFUNDS, SHIPPING], [replace(REFUNDS, passage="")]])
def test_a_refusal_is_told_from_an_answer_as_the_generator_tells_them(text: str, passages: list[Citation]) -> None:
    """The event has no `offers_person`; what follows from the event must agree with it."""
    given = ExtractiveGenerator().answer(text, passages)
    reply = Reply(text=given.text, citations=given.citations, generator="extractive", kb_version="v1")
    assert is_refusal(reply) == given.offers_person


def test_a_generator_that_looks_nothing_up_refuses_nothing() -> None:
    assert not is_refusal(Reply(text="Thank you, we have received your message.", generator="null"))


def test_every_kind_is_counted_also_where_there_is_none() -> None:
    found = counts([comparison(answer(), answer()), comparison(refusal(), answer()), comparison(answer(), answer())])
    assert found == {"newly_refused": 0, "newly_answered": 1, "changed": 0, "same": 2}
    assert tuple(found) == KINDS


def test_documents_stand_side_by_side_with_their_best_scores() -> None:
    before = answer("…", REFUNDS, replace(REFUNDS, passage="Another one.", score=0.4))
    after = answer("…", SHIPPING, replace(REFUNDS, title="Money back", score=0.7))
    assert cited_documents(before, after) == [
        CitedDocument("refunds.md", "Money back", 0.6, 0.7),
        CitedDocument("shipping.md", "Shipping", None, 0.5),
    ]
    assert cited_documents(refusal(), refusal()) == []


def recorded(count: int) -> list[TurnCompleted]:
    return [event for event in Recorded("s").says_much(count).events if isinstance(event, TurnCompleted)]


def test_the_newest_turns_are_kept_in_whatever_order_they_come() -> None:
    for events in permutations(recorded(4)):
        newest = NewestTurns(2)
        for event in (*events, *events):
            newest.take(event)
        assert [turn.seq for turn in newest.turns()] == [4, 3]


def test_what_is_published_again_counts_once_and_what_has_no_reply_is_told() -> None:
    events = recorded(3)
    newest = NewestTurns(10)
    for event in (*events, events[1], replace(events[0], id="held", reply=None), replace(events[0], message=None)):
        newest.take(event)
    for other in Recorded("gone").is_deleted().events:
        newest.take(other)
    assert (newest.found, newest.without_reply, len(newest.turns())) == (3, 1, 3)


class OneDocument:
    """A retriever that always finds the same."""

    async def retrieve(self, text: str) -> Retrieval:
        return Retrieval([REFUNDS], "v9")


class Echo:
    """A generator that says what it was asked, with what was found."""

    name = "echo"
    retrieves = True

    async def generate(self, question: Question, emit: Emit) -> Answer:
        await emit("unheard")
        return Answer(question.message.text, list(question.retrieval.passages), 0.9)


async def test_messages_are_answered_in_pages_and_stay_in_order() -> None:
    turns = recorded(150)
    told: list[tuple[int, int | None]] = []
    compared = await answered_again(turns, Echo(), OneDocument(), lambda done, total: told.append((done, total)))
    assert [each.after.text for each in compared] == [turn.message.text for turn in turns if turn.message]
    assert [each.before for each in compared] == [turn.reply for turn in turns]
    assert compared[0].after == Reply(
        text="question 0", citations=[REFUNDS], generator="echo", kb_version="v9", confidence=0.9
    )
    assert told[0] == (0, 150)
    assert told[-1] == (150, 150)


async def test_a_generator_that_retrieves_nothing_is_given_nothing() -> None:
    compared = await answered_again(recorded(1), NullGenerator(), OneDocument(), lambda done, total: None)
    assert (compared[0].after.kb_version, compared[0].after.citations) == (None, [])


def test_the_page_shows_every_kind_and_escapes_what_others_wrote() -> None:
    hostile = replace(REFUNDS, doc_id=CANARY, title=CANARY, passage=CANARY)
    before = replace(answer(CANARY, hostile), generator=CANARY)
    shown = page(
        [CANARY],
        [
            Comparison(CANARY, CANARY, CANARY, CANARY, before, after)
            for after in (before, answer(f"{CANARY}!", hostile), refusal(CANARY))
        ]
        + [comparison(refusal(CANARY), before, CANARY)],
    )
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;alert(&#x27;canary&#x27;)&lt;/script&gt;") > 20
    for heading in ("Newly refused: 1", "Newly answered: 1", "Changed: 1", "Same: 1"):
        assert heading in shown


def test_the_page_needs_nothing_from_elsewhere() -> None:
    shown = page(["a"], [comparison(answer(), refusal())])
    assert "default-src 'none'" in shown
    assert not [word for word in ("http:", "https:", "src=", "<link", "url(") if word in shown]


def test_a_directory_gives_the_documents_that_can_be_added_by_name(tmp_path: Path) -> None:
    for name in ("b.md", "a.txt", "C.MD", "picture.png"):
        (tmp_path / name).write_text("x")
    assert [path.name for path in knowledge_files(tmp_path)] == ["C.MD", "a.txt", "b.md"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no \.markdown, \.md, \.txt file"):
        knowledge_files(tmp_path / "empty")
