"""Chromium, one tab per test, and the edge that it talks to.

`edge` is anything with a `base_url` that serves the page and answers; tests that script the server's side ask
for `fake_edge`.
"""

from collections.abc import Iterator
from typing import Protocol

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.browser.chat_page import ChatPage
from tests.browser.chromium import LAUNCH_ARGUMENTS, chromium_path
from tests.browser.fake_edge import FakeEdge, running_edge

expect.set_options(timeout=5_000)


class Edge(Protocol):
    base_url: str


# Closed with the last test here: Playwright's synchronous API keeps an event loop running in this thread, and
# other packages' tests start their own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=LAUNCH_ARGUMENTS)
        yield browser
        browser.close()


# One for all tests: each has its own tab and origin (another port), so nothing is kept between them, and
# a tab opens in half the time of a context.
@pytest.fixture(scope="package")
def shared_context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def context(shared_context: BrowserContext) -> Iterator[BrowserContext]:
    yield shared_context
    for page in shared_context.pages:
        page.close()
    shared_context.set_offline(False)


@pytest.fixture
def fake_edge() -> Iterator[FakeEdge]:
    with running_edge() as edge:
        yield edge


@pytest.fixture
def edge(fake_edge: FakeEdge) -> Edge:
    return fake_edge


@pytest.fixture
def chat(edge: Edge, context: BrowserContext) -> Iterator[ChatPage]:
    """A tab, not yet open. At the end nothing may have been complained about or asked from elsewhere."""
    chat = ChatPage(context.new_page(), edge.base_url)
    yield chat
    assert chat.complaints == []
