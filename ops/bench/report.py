"""What a bench hands back, and how it looks on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
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


def store_table(report: Report, divided: Mapping[str, tuple[str, str]]) -> Table:
    """Each ratio with the two figures that it divides (names in `divided`), then what a session takes in Redis."""
    conditions = report.figures["conditions"]
    table = Table(
        title="store: medians of {rounds} rounds of {seconds:g} s".format_map(conditions),
        caption="{cpus} CPUs, Python {python}; memory: {sessions:,} sessions".format_map(conditions),
    )
    table.add_column("figure")
    for heading in ("dividend", "divisor", "ratio"):
        table.add_column(heading, justify="right")
    medians = report.figures["medians"]
    for name, figures in divided.items():
        table.add_row(name, *(with_unit(figure, medians[figure]) for figure in figures), number(report.ratios[name]))
    table.add_section()
    for form, size_bytes in report.figures["redis_bytes_per_session_10_turns"].items():
        table.add_row(f"session of 10 turns, {form}", f"{number(size_bytes)} bytes")
    return table


def lanes_table(report: Report) -> Table:
    """Per length of work what was reached, and its share of lanes ÷ work."""
    conditions = report.figures["conditions"]
    table = Table(
        title="lanes: medians of {rounds} rounds of {seconds:g} s, {lanes} sessions in one partition".format_map(
            conditions
        ),
        caption="{cpus} CPUs, Python {python}, Apache Kafka {kafka}".format_map(conditions),
    )
    table.add_column("work per record")
    for heading in ("records/s", "of lanes ÷ work", "added delay p50", "p99"):
        table.add_column(heading, justify="right")
    for work, figures in report.figures["work"].items():
        ratio = report.ratios.get(f"work_{work.replace(' ', '')}")
        table.add_row(
            work,
            number(figures["records_per_s"]),
            "" if ratio is None else number(ratio),
            f"{number(figures['added_ms_p50'])} ms",
            f"{number(figures['added_ms_p99'])} ms",
        )
    for name, figures in report.figures.get("hot_key", {}).items():
        table.add_row(
            f"10 ms, beside a hot session {name.replace('_', ' the ')}",
            number(figures["records_per_s"]),
            "",
            f"{number(figures['added_ms_p50'])} ms",
            f"{number(figures['added_ms_p99'])} ms",
        )
    for who, seconds in report.figures.get("failover_s", {}).items():
        table.add_section()
        table.add_row(f"first reply after kill -9 of a {who}", f"{number(seconds['median'])} s", "", "", "")
    return table


def replay_table(report: Report) -> Table:
    """Records a second beside the floor's, memory, and what snapshots save."""
    conditions, figures, ratios = report.figures["conditions"], report.figures, report.ratios
    table = Table(
        title="replay: medians of {rounds} rounds, {records:,} records of {sessions:,} sessions".format_map(conditions),
        caption="{cpus} CPUs, Python {python}, Apache Kafka {kafka}".format_map(conditions),
    )
    table.add_column("figure")
    for heading in ("floor", "replay", "ratio"):
        table.add_column(heading, justify="right")
    floor, product = figures["floor_records_per_s"], figures["replay_records_per_s"]
    table.add_row("records/s", number(floor), number(product), number(ratios["rate_over_floor"]))
    small, peak = figures["small_replay_peak_rss_bytes"] / 2**20, figures["replay_peak_rss_bytes"] / 2**20
    memory = f"{number(peak)} MiB"
    table.add_row(
        "peak memory, of a topic a tenth as large and of all", f"{number(small)} MiB", memory, number(peak / small)
    )
    full, from_snapshots = conditions["records"] / product, figures["snapshot_rebuild_s"]
    table.add_row(
        "seconds, all events and from snapshots",
        f"{number(full)} s",
        f"{number(from_snapshots)} s",
        number(ratios["snapshot_rebuild_over_full"]),
    )
    return table


def with_unit(figure: str, value: float) -> str:
    """`value` of a figure that is a time or a rate."""
    return f"{number(value)} µs" if figure.endswith("_us") else f"{number(value)}/s"


def number(value: float) -> str:
    """`value` with three significant digits, but never less than its whole part."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
