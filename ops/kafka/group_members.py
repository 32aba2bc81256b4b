"""The members of the workers' consumer group: which of them are no workers, and whether another worker has our id.

A member that is no worker takes records that are then not answered. Two workers with one WORKER_INSTANCE_ID replace
each other in the group, again and again. No I/O; `ops.processes.group_watch` asks the broker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from aiokafka.errors import InconsistentGroupProtocolError

from ops.settings import Settings

REMIND_SECONDS = 600.0
TWIN_WITHIN_SECONDS = 60.0
MOST_EXPIRIES = 3
"""A member whose session expires gets another id: at most so often in as many session timeouts."""
_UUID_LENGTH = 36
_SHOWN_MEMBERS = 3
_FENCED_INSTANCE_ID = 82
"""Kafka's error code FENCED_INSTANCE_ID, which not every version of aiokafka has a class for."""


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One member of a consumer group, as its coordinator has it."""

    member_id: str
    client_id: str
    host: str

    @property
    def is_told(self) -> bool:
        """False: the broker says nothing of it, like the one that `supportstream dev` embeds."""
        return bool(self.client_id or self.host)


class Change(Enum):
    """What a look at the members is to be followed by."""

    NONE = auto()
    BEGAN = auto()
    GOES_ON = auto()
    """As before; it was said `REMIND_SECONDS` ago, and is to be said again."""
    ENDED = auto()


class ForeignMembers:
    """The members that are no workers, from one look to the next."""

    def __init__(self, group: str, client_id: str) -> None:
        """`client_id`: with what the client ids of all workers begin."""
        self._group = group
        self._client_id = client_id
        self._said_at = 0.0
        self.members: tuple[GroupMember, ...] = ()

    def look(self, members: Sequence[GroupMember], now: float) -> Change:
        """Takes the group's members at `now` (monotonic, seconds)."""
        before = self.members
        self.members = tuple(
            each for each in members if each.is_told and not each.client_id.startswith(self._client_id)
        )
        if not self.members:
            return Change.ENDED if before else Change.NONE
        if before and now < self._said_at + REMIND_SECONDS:
            return Change.NONE
        self._said_at = now
        return Change.GOES_ON if before else Change.BEGAN

    @property
    def problem(self) -> str | None:
        """A sentence for readiness; None: all members are workers."""
        if not self.members:
            return None
        shown = ", ".join(f"{each.client_id or '?'} at {each.host}" for each in self.members[:_SHOWN_MEMBERS])
        more = f" and {len(self.members) - _SHOWN_MEMBERS} more" if len(self.members) > _SHOWN_MEMBERS else ""
        return (
            f"{self._group} has members that are no workers ({shown}{more}): what Kafka gives them is not answered; "
            "end them, or give them a group of their own"
        )


class Twin(Enum):
    """Whether another worker has our WORKER_INSTANCE_ID."""

    NONE = auto()
    IS_NEWER = auto()
    """It came while we were at work: it is to end."""
    WAS_FIRST = auto()
    """It was there when we came: we are to end."""


class InstanceTwin:
    """Looks for another worker with our instance id.

    Kafka has one member for each instance id: a worker that joins with it replaces the member before, and the replaced
    one joins again when its next heartbeat fails, under another member id. So there is a twin where within some time

    - two member ids that are not ours were seen in our place: a worker that is restarted leaves one; or
    - ours has changed more often than it can by session timeouts alone. Of two that heartbeat in step, one hardly ever
      sees the other.

    Kafka does not say which of the two was first. The worker that has just started takes itself for the later one.
    """

    def __init__(self, instance_id: str | None, client_id: str, session_timeout_seconds: float) -> None:
        # The member ids of workers without an instance id begin with the client id, and would look like twins.
        self._instance_id = None if instance_id == client_id else instance_id
        self._changes_within = max(MOST_EXPIRIES * session_timeout_seconds, 10.0)
        self._others: dict[str, float] = {}
        self._ours = ""
        self._changed: list[float] = []
        self._we_just_came = False

    def look(self, members: Sequence[GroupMember], ours: str, now: float, *, just_started: bool) -> Twin:
        """`ours` is the member id that this worker has; empty: it has none at the moment."""
        suspected = self.suspected
        self._others = {name: at for name, at in self._others.items() if now <= at + TWIN_WITHIN_SECONDS}
        self._changed = [at for at in self._changed if now <= at + self._changes_within]
        if self._instance_id is not None and ours:
            for each in members:
                if each.member_id != ours and _instance_of(each.member_id) == self._instance_id:
                    self._others[each.member_id] = now
            if self._ours and ours != self._ours:
                self._changed.append(now)
            self._ours = ours
        if self.suspected and not suspected:
            self._we_just_came = just_started
        if len(self._others) < 2 and len(self._changed) <= MOST_EXPIRIES:
            return Twin.NONE
        return Twin.WAS_FIRST if self._we_just_came else Twin.IS_NEWER

    @property
    def suspected(self) -> bool:
        """Worth another look soon."""
        return bool(self._others or self._changed)


def instance_taken(instance_id: str) -> str:
    """What to say of a twin."""
    return f"another worker has WORKER_INSTANCE_ID={instance_id}; give each worker its own"


def explain_group_error(error: Exception, settings: Settings) -> str | None:
    """What a person does about an error of the consumer that no retry helps; None: it is none of these."""
    told = f"{type(error).__name__} {error}"
    if isinstance(error, InconsistentGroupProtocolError) or InconsistentGroupProtocolError.__name__ in told:
        return (
            f"another program is in the consumer group {settings.consumer_group} with an assignor or a protocol that "
            "is not the workers': end it or give it a group of its own, or set another CONSUMER_GROUP"
        )
    if getattr(error, "errno", None) == _FENCED_INSTANCE_ID or "FencedInstanceId" in told:
        return instance_taken(settings.worker_instance_id or "?")
    return None


def _instance_of(member_id: str) -> str:
    """The instance id in the member id that Kafka made of it: `INSTANCE-UUID`."""
    return member_id[: -_UUID_LENGTH - 1]
