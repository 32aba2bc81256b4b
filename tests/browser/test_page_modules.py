"""The parts of the page that know no DOM, run in Chromium: the connection's states, the answer's text."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.fake_edge import running_edge

DRIVE = """async (inputs) => {
  const { Connection } = await import("/chat/static/connection.js");
  const connection = new Connection(() => 1);
  return inputs.map(([input, ...values]) => {
    const effects = connection[input](...values);
    return [connection.state, ...effects.map(({ do: what, ms }) => ms ? `${what} ${ms}` : what)].join(" ");
  });
}"""

PARSE = """async ([text, sources]) => {
  const { parseAnswer } = await import("/chat/static/answer_text.js");
  return parseAnswer(text, sources);
}"""


@pytest.fixture(scope="module")
def blank(browser: Browser) -> Iterator[Page]:
    """The page's origin without the page: nothing here changes it, so one serves all."""
    with running_edge() as edge:
        page = browser.new_page()
        page.goto(f"{edge.base_url}/chat/static/theme.css")
        yield page
        page.close()


def test_a_connection_that_fails_is_tried_again_ever_more_slowly(blank: Page) -> None:
    failures = [input for _ in range(8) for input in (["closed", 1006], ["timedOut"])]
    states = blank.evaluate(DRIVE, [["start", True], *failures])
    assert states[0] == "connecting connect timer 10000"
    delays = [float(state.split()[-1]) for state in states[1::2]]
    assert delays == [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]


def test_a_welcome_ends_the_attempts_and_a_loss_starts_them_anew(blank: Page) -> None:
    inputs = [["start", True], ["closed", 1013], ["timedOut"], ["welcomed"], ["closed", 1012], ["timedOut"]]
    assert blank.evaluate(DRIVE, inputs)[3:] == [
        "open stop_timer",
        "waiting timer 500",
        "connecting connect timer 10000",
    ]


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (4401, "refused"),
        (4403, "refused"),
        (4400, "refused"),
        (1009, "refused"),
        (4408, "waiting"),
        (1011, "waiting"),
        (1001, "waiting"),
        (1000, "waiting"),
    ],
)
def test_close_codes_decide_whether_to_try_again(blank: Page, code: int, state: str) -> None:
    last = blank.evaluate(DRIVE, [["start", True], ["closed", code]])[-1]
    assert last.split()[0] == state


def test_refused_is_left_by_a_person_only(blank: Page) -> None:
    inputs = [
        ["start", True],
        ["refused", "token"],
        ["woke"],
        ["timedOut"],
        ["wentOffline"],
        ["closed", 1006],
        ["tryNow"],
    ]
    states = blank.evaluate(DRIVE, inputs)
    assert states[1] == "refused disconnect stop_timer"
    assert states[2:6] == ["refused"] * 4
    assert states[6] == "connecting connect timer 10000"


def test_a_silent_server_and_a_dead_connection_are_given_up(blank: Page) -> None:
    inputs = [
        ["start", False],
        ["woke"],
        ["timedOut"],
        ["timedOut"],
        ["welcomed"],
        ["stalled"],
        ["wentOffline"],
    ]
    assert [state.split()[:2] for state in blank.evaluate(DRIVE, inputs)] == [
        ["offline", "stop_timer"],
        ["connecting", "connect"],
        ["waiting", "disconnect"],
        ["connecting", "connect"],
        ["open", "stop_timer"],
        ["waiting", "disconnect"],
        ["offline", "disconnect"],
    ]


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        (
            "One\r\ntwo\n\nthree",
            [
                {"kind": "paragraph", "lines": [[{"text": "One"}], [{"text": "two"}]]},
                {"kind": "paragraph", "lines": [[{"text": "three"}]]},
            ],
        ),
        (
            "- a\n* b [2]",
            [
                {
                    "kind": "list",
                    "ordered": False,
                    "start": 1,
                    "items": [[{"text": "a"}], [{"text": "b "}, {"cite": 2}]],
                }
            ],
        ),
        (
            "3. a\n   more\n4) b",
            [
                {
                    "kind": "list",
                    "ordered": True,
                    "start": 3,
                    "items": [[{"text": "a"}, {"text": " more"}], [{"text": "b"}]],
                }
            ],
        ),
        (
            "[1][2] [3] [0] [x]",
            [{"kind": "paragraph", "lines": [[{"cite": 1}, {"cite": 2}, {"text": " [3] [0] [x]"}]]}],
        ),
        ("  \n\n", []),
    ],
)
def test_an_answer_is_split_into_paragraphs_lists_and_references(blank: Page, text: str, blocks: list[Any]) -> None:
    assert blank.evaluate(PARSE, [text, 2]) == blocks
