"""The story of a message as its records tell it, without a broker."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from ops.explanation.page import page
from ops.explanation.timeline import Asked, Told, timeline
from schemas.inbound import Message
from schemas.publishing import Position
from schemas.replies import Citation, CustomerMessage, Reply, TurnCompleted, TurnFailed

AT = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
QUESTION = Message(
    id="m-1", session_id="s-1", text="Where is <script>alert(1)</script> my order?", sent_at="2026-03-01T07:59:59Z"
)
CITATION = Citation(doc_id="orders", title="Orders <b>", passage="It is on its way.", score=0.7134)
ANSWER = TurnCompleted(
    id="e-1",
    session_id="s-1",
    epoch=1,
    seq=3,
    version=3,
    inbound_id="m-1",
    source=None,
    actor="agent",
    completed_at="2026-03-01T08:00:00.030Z",
    message=CustomerMessage(id="m-1", text=QUESTION.text),
    reply=Reply(
        text="On its way. [1]", citations=[CITATION], generator="extractive", kb_version="5f2b", confidence=0.87
    ),
    timings_ms={"lane_wait": 1.5, "retrieve": 14.0, "generate": 0.4},
)
FAILED = TurnFailed(
    id="e-2",
    session_id="s-1",
    epoch=1,
    seq=2,
    version=2,
    inbound_id="m-1",
    source=None,
    actor="agent",
    completed_at="2026-03-01T08:00:00.020Z",
    code="generator_failed",
    error="no answer in 30 s",
    attempts=5,
)


def question(offset: int = 7, after_s: float = 0.0, **fields: object) -> Asked:
    asked = Asked(Position("support.inbound.v1", 3, offset), AT + timedelta(seconds=after_s), QUESTION)
    return replace(asked, **fields)  # type: ignore[arg-type]


def told(event: TurnCompleted | TurnFailed = ANSWER, offset: int = 9, after_s: float = 0.05) -> Told:
    return Told(Position("support.replies.v1", 3, offset), AT + timedelta(seconds=after_s), event)


def test_an_answered_message_from_end_to_end() -> None:
    story = timeline("m-1", [question()], [told()], [])
    assert (story.outcome, story.session_id, story.total_ms) == ("answered", "s-1", 50.0)
    assert [(step.name, step.took_ms) for step in story.steps] == [
        ("sent", None),
        ("accepted", None),
        ("waited in its lane", 1.5),
        ("retrieved", 14.0),
        ("generated", 0.4),
        ("decided", None),
        ("published", None),
    ]
    assert story.citations == [CITATION]
    assert story.extra == {"epoch": 1, "seq": 3, "generator": "extractive", "kb_version": "5f2b", "confidence": 0.87}


def test_what_came_again_is_told_and_only_once_as_an_answer() -> None:
    story = timeline("m-1", [question(8, 2.0), question()], [told(offset=10, after_s=3.0), told()], [])
    names = [step.name for step in story.steps]
    assert names == [
        *("sent", "accepted", "came again"),
        *("waited in its lane", "retrieved", "generated", "decided", "published", "published again"),
    ]
    assert story.total_ms == 50.0


def test_a_failure_that_was_redriven() -> None:
    again = question(20, 60.0, redriven_from="4:11")
    story = timeline("m-1", [question(), again], [told(FAILED), told(after_s=60.1)], [])
    names = [step.name for step in story.steps]
    assert names[:5] == ["sent", "accepted", "redriven", "failed", "published"]
    assert story.outcome == "answered"


def test_a_message_that_waits_is_open() -> None:
    story = timeline("m-1", [question()], [], [])
    assert (story.outcome, story.reply, story.total_ms) == ("open", None, None)


def test_a_record_that_can_become_nothing() -> None:
    story = timeline("support.inbound.v1:3:7", [question(event=None, problem="bad_json: not JSON")], [], [])
    assert [step.name for step in story.steps] == ["accepted", "not readable"]
    assert story.session_id is None


def test_the_page_shows_what_customers_wrote_and_runs_none_of_it() -> None:
    html = page("m-1", [timeline("m-1", [question()], [told()], [])])
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Orders &lt;b&gt;" in html
    for loads in ("http:", "https:", "src="):
        assert loads not in html, "it needs nothing from elsewhere"
