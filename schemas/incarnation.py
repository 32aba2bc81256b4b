"""Names for the lives of a topic: `support.inbound.v1`, and when it was created again `support.inbound.v1@1`.

Offsets of different lives are of different logs, so they are kept under these names (`workers.incarnations`).
"""


def incarnation_name(topic: str, number: int) -> str:
    """Kafka allows no `@` in a topic's own name."""
    return f"{topic}@{number}" if number else topic


def parse_incarnation(name: str) -> tuple[str, int]:
    """(topic, number) of a name."""
    topic, _, number = name.partition("@")
    return topic, int(number) if number.isdecimal() else 0


def incarnation_key(topic: str) -> str:
    """What the store's progress keeps the number under."""
    return f"{topic}#incarnation"
