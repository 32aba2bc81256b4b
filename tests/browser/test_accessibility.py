"""What an accessibility audit looks at first: names, landmarks, contrast, touch targets, focus."""

from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.chat_page import ChatPage

# Contrast after WCAG 2.2, 1.4.3: relative luminance of the text against the nearest opaque background.
LOW_CONTRAST = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].reduce((sum, value, index) => {
    const c = value / 255;
    const linear = c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return sum + linear * [0.2126, 0.7152, 0.0722][index];
  }, 0);
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return channels(getComputedStyle(document.documentElement).backgroundColor);
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest(".unseen, .skip")) continue;
    const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(background(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${walker.currentNode.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return low;
}"""

SMALL_TARGETS = """() => [...document.querySelectorAll("button, a, textarea")].filter((element) => {
  const { width, height } = element.getBoundingClientRect();
  return element.checkVisibility() && !element.matches(".reference, .skip") && (width < 44 || height < 44);
}).map((element) => element.outerHTML.slice(0, 80))"""


def test_text_has_contrast_and_targets_fit_a_finger(chat: ChatPage) -> None:
    chat.open()
    _check(chat.page)
    chat.write("How do I get my money back?")
    chat.answers.get_by_role("button").first.click()
    expect(chat.page.get_by_role("region", name="Source 1")).to_be_visible()
    _check(chat.page)
    chat.page.context.set_offline(True)
    chat.write("And this one waits")
    expect(chat.page.get_by_text("You are offline.")).to_be_visible()
    _check(chat.page)


def test_every_control_has_a_name_and_the_page_its_landmarks(chat: ChatPage) -> None:
    chat.open()
    chat.write("How do I get my money back?")
    chat.answers.get_by_role("button").first.click()
    for role in ("button", "textbox", "link", "region", "log", "form", "group"):
        for control in chat.page.get_by_role(role).all():
            snapshot = control.aria_snapshot().splitlines()[0]
            assert '"' in snapshot, f"a {role} without a name: {snapshot}"
    for landmark in ("banner", "main", "form", "log"):
        expect(chat.page.get_by_role(landmark)).to_have_count(1)
    expect(chat.page.locator("html")).to_have_attribute("lang", "en")
    ids: list[str] = chat.page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))


def test_focus_goes_through_the_page_in_reading_order_and_is_seen(chat: ChatPage) -> None:
    chat.open()
    skip = chat.page.get_by_role("link", name="Skip to writing a message")
    skip.focus()
    expect(skip).to_be_in_viewport()
    order = [chat.page.get_by_role("region", name="Conversation")]
    order += [chat.page.get_by_role("button", name=name) for name in ("Refunds", "Password", "Shipping", "A person")]
    for element in (*order, chat.composer):
        chat.page.keyboard.press("Tab")
        expect(element).to_be_focused()
        assert element.evaluate("(element) => element.matches(':focus-visible')")
    skip.focus()
    chat.page.keyboard.press("Enter")
    expect(chat.composer).to_be_focused()


def test_nothing_moves_where_motion_is_unwanted(chat: ChatPage, context: BrowserContext) -> None:
    chat.page.emulate_media(reduced_motion="reduce")
    chat.open()
    chat.write("How do I get my money back?")
    expect(chat.answers).to_have_count(1)
    assert chat.page.evaluate("document.getAnimations().length") == 0


def _check(page: Page) -> None:
    page.emulate_media(color_scheme="light")
    assert page.evaluate(LOW_CONTRAST) == []
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(LOW_CONTRAST) == []
    assert page.evaluate(SMALL_TARGETS) == []
