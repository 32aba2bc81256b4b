"""What a replay found, and did."""

from collections import Counter
from dataclasses import dataclass, field

from ops.replay.comparison import Difference

_SHOWN = 10


@dataclass(slots=True)
class Outcome:
    """What a replay found, and did, with all sessions or with some."""

    kinds: Counter[str] = field(default_factory=Counter)
    """Sessions, by `Difference.kind`."""
    fields: Counter[str] = field(default_factory=Counter)
    """Of changed ones, how many differ in a field."""
    first: list[Difference] = field(default_factory=list)
    """The first that are not the same."""
    more: int = 0
    """Of those that are not the same, how many are not among the first."""
    snapshots: int = 0
    """That it began with."""
    records: int = 0
    """Read in this run."""
    seconds_reading: float = 0.0
    resumed_at: int = 0
    """Records that an earlier run, which was killed, had read."""
    unreadable: int = 0
    """Records that are no reply events."""
    erased: int = 0
    """Records that nobody can read any more, because their sessions were deleted."""
    switched: int = 0
    removed: int = 0
    executed: bool = False

    def add(self, difference: Difference) -> None:
        self.kinds[difference.kind] += 1
        self.fields.update(difference.changes.keys())
        if difference.kind not in ("same", "expired"):
            self._show(difference)

    def take_in(self, part: "Outcome") -> None:
        """What was found and done with other sessions counts here as well."""
        self.kinds.update(part.kinds)
        self.fields.update(part.fields)
        self.more += part.more
        self.switched += part.switched
        self.removed += part.removed
        for difference in part.first:
            self._show(difference)

    def _show(self, difference: Difference) -> None:
        if len(self.first) < _SHOWN:
            self.first.append(difference)
        else:
            self.more += 1

    @property
    def differs(self) -> bool:
        return any(self.kinds[kind] for kind in ("created", "changed", "removed"))
