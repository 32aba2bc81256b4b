"""What a bench hands back, and how it looks on a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

NOT_COMPARABLE = {"turns_1_client", "cpus_lost_to_others"}
"""Figures that tell how far the others can be trusted."""


@dataclass(frozen=True)
class Report:
    """JSON values: `ratios` is what a requirement is checked against, `figures` what they come from."""

    ratios: dict[str, float]
    figures: dict[str, Any]


def turns_table(report: Report) -> Table:
    """Each figure of the floor and the product side by side, with product ÷ floor."""
    conditions = report.figures["conditions"]
    table = Table(
        title=f"turns: medians of {conditions['rounds']} rounds of {conditions['seconds']:g} s",
        caption="{cpus} CPUs, Python {python}, Apache Kafka {kafka}".format_map(conditions),
    )
    table.add_column("figure")
    for heading in ("floor", "product", "product ÷ floor"):
        table.add_column(heading, justify="right")
    floor, product = report.figures["floor"], report.figures["product"]
    for name, value in floor.items():
        ratio = "" if name in NOT_COMPARABLE else number(product[name] / value)
        table.add_row(name, number(value), number(product[name]), ratio)
    if retrieval := report.figures.get("retrieval"):
        alone, of_alone = retrieval["encode_alone_texts_per_s"], report.ratios["retrieval_turns_per_s"]
        table.add_section()
        table.add_row("retrieval_turns_per_s", number(alone), number(alone * of_alone), number(of_alone))
    return table


def number(value: float) -> str:
    """`value` with three significant digits, but never less than its whole part."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
