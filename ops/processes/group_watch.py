"""A worker's background task: looks at the members of its consumer group."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import structlog
from aiokafka.errors import KafkaError

from ops.background import in_background
from ops.errors import OpsError
from ops.kafka.connection import KafkaConnection
from ops.kafka.group_members import Change, ForeignMembers, GroupMember, InstanceTwin, Twin, instance_taken
from ops.kafka.topics import TopicAdmin
from ops.settings import Settings

log = structlog.get_logger(__name__)

EVERY_SECONDS = 15.0
SOON_SECONDS = 1.0
SOON_TIMES = 15
"""So many looks are `SOON_SECONDS` apart after the start of a worker with an instance id, and when another worker may
have that as well: the two replace each other every few seconds."""

Members = Callable[[], Awaitable[Sequence[GroupMember]]]
"""The group's members now. Raises OpsError or KafkaError where the broker does not tell."""


async def members_of(connection: KafkaConnection, group: str) -> Sequence[GroupMember]:
    """Asked over a connection of its own, so that nothing waits behind the question."""
    async with TopicAdmin(connection) as admin:
        return await admin.members_of(group)


class GroupWatch:
    """What a worker knows of the other members of its group."""

    def __init__(
        self,
        settings: Settings,
        members: Members,
        *,
        client_id: str,
        member_id: Callable[[], str],
        show: Callable[[int], None],
        fail: Callable[[OpsError], None],
        every_seconds: float = EVERY_SECONDS,
        soon_seconds: float = SOON_SECONDS,
    ) -> None:
        """`member_id` is this worker's in the group, empty while it has none; `show` takes how many members are no
        workers; `fail` ends the process."""
        self._settings = settings
        self._members = members
        self._member_id = member_id
        self._show = show
        self._fail = fail
        self._every_seconds = every_seconds
        self._soon_seconds = soon_seconds
        self._foreign = ForeignMembers(settings.consumer_group, client_id)
        self._instance = InstanceTwin(settings.worker_instance_id, client_id, settings.worker_session_timeout_ms / 1000)
        self._twin = Twin.NONE

    @property
    def problem(self) -> str | None:
        """Why the group is not in order, as a sentence; None: it is, as far as is known."""
        return self._taken if self._twin is not Twin.NONE else self._foreign.problem

    @property
    def _taken(self) -> str:
        return instance_taken(self._settings.worker_instance_id or "")

    async def ready(self) -> None:
        """Raises OpsError while a member of the group is no worker, or another worker has this one's instance id."""
        if self.problem is not None:
            raise OpsError(self.problem)

    def watching(self) -> AbstractAsyncContextManager[None]:
        """Looks regularly while the block runs."""
        return in_background(self._watch(), "watch-group")

    async def _watch(self) -> None:
        young = SOON_TIMES if self._settings.worker_instance_id else 0
        while self._twin is not Twin.WAS_FIRST:
            try:
                await self._look(just_started=young > 0)
            except (OpsError, KafkaError, OSError) as error:
                # The broker is away, or does not tell; health has a check of its own for the former.
                log.debug("group_not_described", error=str(error) or type(error).__name__)
            except Exception:
                log.exception("group_not_described")
            young = max(0, young - 1)
            await asyncio.sleep(self._soon_seconds if young or self._instance.suspected else self._every_seconds)

    async def _look(self, *, just_started: bool) -> None:
        before = self._member_id()
        members = await self._members()
        now = time.monotonic()
        self._tell_foreign(self._foreign.look(members, now))
        # Only what was ours before and after is known to have been ours when the broker answered.
        ours = before if before == self._member_id() else ""
        twin = self._instance.look(members, ours, now, just_started=just_started)
        if twin is Twin.WAS_FIRST:
            self._fail(OpsError(self._taken))
        elif twin is Twin.IS_NEWER and self._twin is Twin.NONE:
            log.error("worker_instance_id_taken", problem=self._taken)
        self._twin = twin

    def _tell_foreign(self, change: Change) -> None:
        self._show(len(self._foreign.members))
        if change in (Change.BEGAN, Change.GOES_ON):
            log.error("foreign_group_members", problem=self._foreign.problem)
        elif change is Change.ENDED:
            log.warning("foreign_group_members_gone", group=self._settings.consumer_group)
