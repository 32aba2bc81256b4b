"""The chat page as a customer meets it: the words for what tests do and see."""

from dataclasses import dataclass, field

from playwright.sync_api import ConsoleMessage, Error, Locator, Page, Request, expect

UNAVOIDABLE = "WebSocket connection to"
"""Chromium itself reports each failed connection on the console; a page can't prevent that."""


@dataclass
class ChatPage:
    """The page in one tab, with a record of what must not happen in it."""

    page: Page
    base_url: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", self._on_error)
        self.page.on("request", self._on_request)

    def open(self) -> None:
        self.page.goto(f"{self.base_url}/chat")
        self.expect_status("Connected")

    def reload(self) -> None:
        self.page.reload()

    @property
    def composer(self) -> Locator:
        return self.page.get_by_role("textbox", name="Your message")

    @property
    def log(self) -> Locator:
        return self.page.get_by_role("log")

    @property
    def questions(self) -> Locator:
        return self.log.locator(".question-text:visible")

    @property
    def answers(self) -> Locator:
        return self.log.locator(".answer-text")

    @property
    def writing(self) -> Locator:
        return self.log.get_by_text("The assistant is writing…")

    def write(self, text: str) -> None:
        self.composer.fill(text)
        self.composer.press("Enter")

    def expect_status(self, words: str) -> None:
        expect(self.page.get_by_role("banner").get_by_role("status")).to_have_text(words)

    def storage(self) -> str:
        """What the page keeps for a reload."""
        kept: str = self.page.evaluate("JSON.stringify(sessionStorage)")
        return kept

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and UNAVOIDABLE not in message.text:
            self.complaints.append(f"console: {message.text}")

    def _on_error(self, error: Error) -> None:
        self.complaints.append(f"uncaught: {error}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(self.base_url):
            self.complaints.append(f"request to {request.url}")
