"""What the bench's customers write: the same texts, in the same order, in every run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

QUESTIONS = (
    "How do I get back into my account? I forgot the password.",
    "The link to reset my password never arrived in my inbox.",
    "I'd like my money back for the headphones I bought last week.",
    "Can I still return a jacket after twenty days if the tag is on it?",
    "How long does standard delivery take to a small town?",
    "Is there a faster way to get this before the weekend?",
    "Where can I see how far my parcel has come?",
    "The tracking page says delivered, but nothing is here.",
    "Which documents do you need to verify who I am?",
    "Why are you asking for my phone number during verification?",
    "Do you take American Express or only Visa?",
    "My payment was declined although the card is fine.",
    "Can I pay with Apple Pay on the website as well?",
    "What do I get if I become a premium member?",
    "Does premium include free shipping on heavy items?",
    "At what time can I reach somebody on the phone?",
    "Is your chat really staffed in the middle of the night?",
    "Do you hand my data to advertisers?",
    "Please delete everything that you have stored about me.",
    "I was charged twice for one order, what now?",
    "The coffee machine came with a cracked jug.",
    "Can I change the delivery address after ordering?",
    "I want to cancel an order that I placed an hour ago.",
    "Do I have to pay the postage when I send something back?",
    "How do I change the e-mail address of my account?",
    "The app closes itself as soon as I open my basket.",
    "My discount code is refused at checkout.",
    "When does the early access to the summer sale begin?",
    "I'd rather talk to a person, please.",
    "Could I have an invoice with our company's name on it?",
    "Two of the five items are missing from the box.",
    "Do you ship to Norway, and who pays the customs?",
)


def repeated() -> Iterator[str]:
    """The questions round and round, without end."""
    return itertools.cycle(QUESTIONS)


def unique() -> Iterator[str]:
    """Questions without end of which no two are equal, so that no cache by text can answer them."""
    for number, question in enumerate(repeated(), start=1):
        yield f"{question} My order is number {70_000 + 37 * number}."
