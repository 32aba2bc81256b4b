"""Text stays text, whoever wrote it. The `chat` fixture fails on any violation of the CSP."""

from playwright.sync_api import expect

from schemas.frames import MessageFrame
from schemas.replies import Citation
from tests.browser.chat_page import ChatPage
from tests.browser.fake_edge import FakeEdge

HOSTILE = (
    "<img src=x onerror=document.title='owned'>",
    "<script>document.title='owned'</script>",
    "[click me](javascript:document.title='owned')",
    "<a href='https://elsewhere.example'>link</a><iframe src='https://elsewhere.example'></iframe>",
    "&lt;b&gt; ${document.title='owned'} {{constructor.constructor('alert(1)')()}}",
    "</div></article></template><style>*{display:none}</style>",
)


def test_markup_stays_text_everywhere(chat: ChatPage, fake_edge: FakeEdge) -> None:
    fake_edge.answer = _echo
    chat.open()
    for number, text in enumerate(HOSTILE):
        chat.write(text)
        expect(chat.answers).to_have_count(number + 1)
        expect(chat.questions.nth(number)).to_have_text(text)
        expect(chat.answers.nth(number)).to_contain_text(text)
        chat.answers.nth(number).get_by_role("button").click()
        opened = chat.log.locator(".source:visible").nth(number)
        expect(opened.get_by_role("heading")).to_have_text(text)
        expect(opened.locator("blockquote")).to_have_text(text)
        expect(opened.get_by_role("link")).to_have_count(0)
    assert chat.page.title() == "Support chat"
    assert chat.log.locator("img, script, iframe, style, a[href]").count() == 0


def _echo(message: MessageFrame) -> tuple[str, list[Citation]]:
    url = "javascript:document.title='owned'"
    return f"{message.text} [1]", [Citation(doc_id="d", title=message.text, url=url, passage=message.text, score=0.5)]


def test_only_web_addresses_become_links(chat: ChatPage, fake_edge: FakeEdge) -> None:
    urls = ("https://shop.example/help", "data:text/html,x", "//elsewhere.example", "http://shop.example/")
    sources = [Citation(doc_id=url, title=url, url=url, passage="p", score=0.5) for url in urls]
    fake_edge.answer = lambda message: ("See the sources.", sources)
    chat.open()
    chat.write("Hello?")
    linked = []
    for number, url in enumerate(urls, start=1):
        chat.page.get_by_role("button", name=f"{number} {url}", exact=True).click()
        links = chat.page.get_by_role("region", name=f"Source {number}: ").get_by_role("link")
        linked += [link.get_attribute("href") for link in links.all()]
        for link in links.all():
            assert "noopener" in (link.get_attribute("rel") or "")
    assert linked == ["https://shop.example/help", "http://shop.example/"]


def test_a_frame_of_an_unknown_type_is_ignored(chat: ChatPage, fake_edge: FakeEdge) -> None:
    chat.open()
    chat.page.evaluate(
        """async () => {
          const { Conversation } = await import("/chat/static/conversation.js");
          const conversation = new Conversation();
          if (conversation.apply({ type: "from.the.future" }) !== null) throw new Error("not ignored");
        }"""
    )
    chat.write("Hello?")
    assert fake_edge.wait_for_frames(MessageFrame, 1)[0].text == "Hello?"
    expect(chat.answers).to_have_count(1)
