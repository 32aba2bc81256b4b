"""Takes the pictures of the chat page for the documentation.

`python -m tests.browser.screenshots docs/images` asks the scripted edge, with `--base-url` a running ingress.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.chat_page import ChatPage
from tests.browser.chromium import LAUNCH_ARGUMENTS, chromium_path
from tests.browser.fake_edge import running_edge

QUESTION = "I bought headphones two weeks ago and they are not for me. How do I get my money back?"


def take(browser: Browser, base_url: str, path: Path, *, width: int, height: int) -> None:
    """One answered question; on the wide picture its source is open."""
    wide = width > 600
    context = browser.new_context(
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
        has_touch=not wide,
        is_mobile=not wide,
    )
    chat = ChatPage(context.new_page(), base_url)
    chat.open()
    chat.write(QUESTION)
    expect(chat.answers).to_have_count(1, timeout=30_000)
    if wide:
        chat.answers.get_by_role("button").first.click()
    chat.page.screenshot(path=path)
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base-url", help="of a running ingress, such as http://127.0.0.1:8000")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=LAUNCH_ARGUMENTS)
        serving = nullcontext() if arguments.base_url else running_edge()
        with serving as edge:
            base_url = arguments.base_url or (edge.base_url if edge else "")
            take(browser, base_url, arguments.folder / "chat-desktop.png", width=1280, height=800)
            take(browser, base_url, arguments.folder / "chat-phone.png", width=390, height=844)
        browser.close()


if __name__ == "__main__":
    main()
