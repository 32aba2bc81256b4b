"""Whether a customer asks for a person instead of an answer. Pure."""

import re

_PERSON = (
    r"(?:person|human(?: being)?|agent|representative|rep|operator|advis[oe]r|staff(?: member)?|employee|"
    r"colleague|supervisor|manager|someone|somebody)"
)
_REQUEST = re.compile(
    rf"\b(?:talk|speak|chat|connect(?: me)?|transfer(?: me)?|put me through|hand me over|pass me on|escalate)"
    rf"\b(?:\s+\w+){{0,2}}?\s+(?:to|with)\b(?:\s+[\w-]+){{0,4}}?\s+{_PERSON}\b"
    rf"|\b(?:get|give|want|need)(?:\s+me)?\s+(?:an?|the|your)\s+(?:(?:real|live|actual|human|other)\s+)*"
    rf"(?:person|human(?: being)?|agent|representative|operator|supervisor|manager)\b(?!['\u2019]s)"
    rf"|\b(?:real|live|actual)\s+(?:person|human|agent)\b",
    re.IGNORECASE,
)
_ONLY_A_PERSON = re.compile(
    rf"^\W*(?:an?\s+)?(?:human|agent|operator|representative|{_PERSON})(?:\s+please)?\W*$", re.IGNORECASE
)
_ABOUT_PEOPLE = re.compile(r"\b(?:what\s+time|when|hours|how\s+long|whether)\b", re.IGNORECASE)
"""A question about when people are there is better answered than passed on."""


def asks_for_person(text: str) -> bool:
    """True for "I want to talk to a human", false for "When can I talk to someone?"."""
    if _ONLY_A_PERSON.match(text):
        return True
    return bool(_REQUEST.search(text)) and not _ABOUT_PEOPLE.search(text)
