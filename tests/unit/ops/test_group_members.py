"""Which members of the workers' group are told of, when, and how a worker learns that another has its id."""

from collections.abc import Sequence
from uuid import uuid4

import pytest
from aiokafka.errors import BrokerResponseError, InconsistentGroupProtocolError, KafkaConnectionError, KafkaError
from hypothesis import given
from hypothesis import strategies as st
from structlog.typing import EventDict

from ops.errors import OpsError
from ops.kafka.group_members import (
    MOST_EXPIRIES,
    REMIND_SECONDS,
    TWIN_WITHIN_SECONDS,
    Change,
    ForeignMembers,
    GroupMember,
    InstanceTwin,
    Twin,
    explain_group_error,
)
from ops.processes.group_watch import SOON_TIMES, GroupWatch
from ops.settings import Settings
from tests.polling import eventually

CLIENT_ID = "supportstream-worker"
GROUP = "supportstream-workers"
SETTINGS = Settings(_env_file=None, worker_instance_id="w-1")


def member(client_id: str = CLIENT_ID, instance: str | None = None, number: int = 0) -> GroupMember:
    return GroupMember(f"{instance or client_id}-00000000-0000-4000-8000-{number:012}", client_id, "10.0.0.7")


WORKER, KCAT = member(), member("rdkafka")


def test_a_foreign_member_is_said_when_it_comes_every_ten_minutes_and_when_it_is_gone() -> None:
    foreign = ForeignMembers(GROUP, CLIENT_ID)
    seen: list[tuple[Sequence[GroupMember], float, Change]] = [
        ([WORKER], 0.0, Change.NONE),
        ([WORKER, KCAT], 15.0, Change.BEGAN),
        ([WORKER, KCAT], 30.0, Change.NONE),
        ([WORKER, member("consumer-1")], 14.0 + REMIND_SECONDS, Change.NONE),
        ([WORKER, KCAT], 15.0 + REMIND_SECONDS, Change.GOES_ON),
        ([WORKER, KCAT], 30.0 + REMIND_SECONDS, Change.NONE),
        ([WORKER], 45.0 + REMIND_SECONDS, Change.ENDED),
        ([WORKER], 60.0 + REMIND_SECONDS, Change.NONE),
        ([KCAT], 75.0 + REMIND_SECONDS, Change.BEGAN),
    ]
    for members, now, change in seen:
        assert foreign.look(members, now) is change


def test_the_problem_names_the_group_the_programs_and_what_to_do() -> None:
    foreign = ForeignMembers(GROUP, CLIENT_ID)
    assert foreign.problem is None
    foreign.look([WORKER, member(CLIENT_ID + "-2"), KCAT], 0.0)
    assert foreign.problem is not None
    assert foreign.problem.startswith(f"{GROUP} has members that are no workers (rdkafka at 10.0.0.7)")
    assert "a group of their own" in foreign.problem
    foreign.look([member(f"consumer-{n}") for n in range(9)], 1.0)
    assert "consumer-2 at 10.0.0.7 and 6 more" in foreign.problem
    foreign.look([WORKER], 2.0)
    assert foreign.problem is None


def test_a_member_of_which_the_broker_says_nothing_is_not_foreign() -> None:
    foreign = ForeignMembers(GROUP, CLIENT_ID)
    assert foreign.look([GroupMember("m-1", "", ""), WORKER], 0.0) is Change.NONE
    assert foreign.look([GroupMember("m-1", "", "10.0.0.9")], 1.0) is Change.BEGAN


looks = st.lists(st.tuples(st.sets(st.sampled_from([WORKER, KCAT])), st.floats(0.1, 400.0)), max_size=30)


@given(looks)
def test_each_beginning_has_one_end_and_reminders_are_apart(history: list[tuple[set[GroupMember], float]]) -> None:
    foreign, now, said_at, is_on = ForeignMembers(GROUP, CLIENT_ID), 0.0, 0.0, False
    for members, passed in history:
        now += passed
        change = foreign.look(list(members), now)
        assert (change is Change.BEGAN) == (KCAT in members and not is_on)
        assert (change is Change.ENDED) == (KCAT not in members and is_on)
        if change is Change.GOES_ON:
            assert now >= said_at + REMIND_SECONDS
        if change in (Change.BEGAN, Change.GOES_ON):
            said_at = now
        is_on = KCAT in members
        assert (foreign.problem is not None) == is_on


def ours(number: int) -> GroupMember:
    return member(instance="w-1", number=number)


MINE = ours(0).member_id
SESSION_SECONDS = 10.0


def looks_of(twin: InstanceTwin, *holders: int, just_started: bool = True) -> list[Twin]:
    """What it finds of a group in which these hold our instance id, one second after the other."""
    return [
        twin.look([ours(number)], MINE, float(second), just_started=just_started)
        for second, number in enumerate(holders)
    ]


def test_a_twin_is_one_that_takes_our_place_twice() -> None:
    once = InstanceTwin("w-1", CLIENT_ID, SESSION_SECONDS)
    assert set(looks_of(once, 0, 1, 1, 0, 0, 1)) == {Twin.NONE}, "it may have ended since"
    assert once.suspected
    assert looks_of(InstanceTwin("w-1", CLIENT_ID, SESSION_SECONDS), 0, 1, 0, 2)[-1] is Twin.WAS_FIRST


def test_the_worker_that_was_at_work_when_the_twin_came_stays() -> None:
    twin = InstanceTwin("w-1", CLIENT_ID, SESSION_SECONDS)
    assert looks_of(twin, 0, 0, just_started=True) == [Twin.NONE] * 2
    assert looks_of(twin, 1, 0, 2, just_started=False)[-1] is Twin.IS_NEWER


def changing(every_seconds: float, times: int) -> list[Twin]:
    """What a worker finds that has its own place at each look, and each time another member id than before."""
    twin = InstanceTwin("w-1", CLIENT_ID, SESSION_SECONDS)
    return [
        twin.look([ours(number)], ours(number).member_id, number * every_seconds, just_started=True)
        for number in range(times)
    ]


def test_a_worker_that_never_sees_its_twin_knows_it_by_its_own_changing_id() -> None:
    assert changing(2.5, 2 + MOST_EXPIRIES)[-1] is Twin.WAS_FIRST
    assert set(changing(2.5, 1 + MOST_EXPIRIES)) == {Twin.NONE}


def test_a_worker_whose_session_expires_again_and_again_has_no_twin() -> None:
    assert set(changing(SESSION_SECONDS + 0.1, 50)) == {Twin.NONE}


def test_what_is_long_ago_or_before_we_joined_is_no_twin() -> None:
    twin = InstanceTwin("w-1", CLIENT_ID, SESSION_SECONDS)
    assert twin.look([ours(1)], MINE, 0.0, just_started=True) is Twin.NONE
    assert twin.look([ours(2)], MINE, TWIN_WITHIN_SECONDS + 1.0, just_started=True) is Twin.NONE
    joining = InstanceTwin("w-1", CLIENT_ID, SESSION_SECONDS)
    assert {joining.look([ours(n)], "", 1.0, just_started=True) for n in range(5)} == {Twin.NONE}
    assert not joining.suspected


@pytest.mark.parametrize("instance", [None, CLIENT_ID])
def test_workers_without_an_instance_id_are_never_twins(instance: str | None) -> None:
    twin = InstanceTwin(instance, CLIENT_ID, SESSION_SECONDS)
    every = [member(number=number) for number in range(5)]
    assert twin.look(every, member(number=9).member_id, 1.0, just_started=True) is Twin.NONE


def test_an_id_that_only_begins_alike_is_another_worker() -> None:
    twin = InstanceTwin("w-1", CLIENT_ID, SESSION_SECONDS)
    alike = [GroupMember(f"w-1-{name}-{uuid4()}", CLIENT_ID, "10.0.0.7") for name in ("a", "b", "c")]
    assert twin.look([*alike, ours(0)], MINE, 1.0, just_started=True) is Twin.NONE
    assert not twin.suspected


class FencedInstanceIdError(BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """As aiokafka may name it some day."""

    errno = 82
    message = "FENCED_INSTANCE_ID"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InconsistentGroupProtocolError(), f"consumer group {GROUP}"),
        (KafkaError("Unexpected error: InconsistentGroupProtocolError()"), "another CONSUMER_GROUP"),
        (FencedInstanceIdError(), "another worker has WORKER_INSTANCE_ID=w-1; give each worker its own"),
        (KafkaError(repr(FencedInstanceIdError())), "another worker has WORKER_INSTANCE_ID=w-1"),
    ],
)
def test_an_error_that_only_a_person_can_put_right_is_explained(error: Exception, words: str) -> None:
    explained = explain_group_error(error, SETTINGS)
    assert explained is not None
    assert words in explained
    assert "\n" not in explained


@pytest.mark.parametrize("error", [KafkaConnectionError(), KafkaError("?"), RuntimeError(), OSError("refused")])
def test_any_other_error_is_not_explained(error: Exception) -> None:
    assert explain_group_error(error, SETTINGS) is None


class Asked:
    """A group whose members the test sets; an exception in their place is raised once."""

    def __init__(self, *answers: Sequence[GroupMember] | Exception) -> None:
        self._answers = list(answers)
        self.shown: list[int] = []
        self.failures: list[OpsError] = []
        self.watch = GroupWatch(
            SETTINGS,
            self._members,
            client_id=CLIENT_ID,
            member_id=lambda: MINE,
            show=self.shown.append,
            fail=self.failures.append,
            every_seconds=0.001,
            soon_seconds=0.001,
        )

    async def _members(self) -> Sequence[GroupMember]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def looked(self, times: int) -> bool:
        return len(self.shown) >= times


async def test_the_watch_tells_of_a_foreign_member_also_after_unknown_errors(logs: list[EventDict]) -> None:
    """H: the metric, the log and readiness have it; an exception type that the code does not know ends nothing."""
    mine = ours(0)
    asked = Asked([mine], KafkaError("away"), [mine, KCAT], ZeroDivisionError("?"), [mine, KCAT])
    async with asked.watch.watching():
        await asked.watch.ready()
        await eventually(lambda: asked.looked(5), "five looks")
        with pytest.raises(OpsError, match="rdkafka at 10"):
            await asked.watch.ready()
    assert asked.shown[:3] == [0, 1, 1]
    assert [each["event"] for each in logs].count("foreign_group_members") == 1
    assert asked.failures == []


async def test_the_watch_tells_once_that_a_foreign_member_has_gone(logs: list[EventDict]) -> None:
    asked = Asked([KCAT], [KCAT], [ours(0)])
    async with asked.watch.watching():
        await eventually(lambda: asked.looked(6), "six looks")
        await asked.watch.ready()
    told = [each["event"] for each in logs]
    assert told == ["foreign_group_members", "foreign_group_members_gone"]


async def test_the_watch_ends_the_process_once_for_a_twin() -> None:
    asked = Asked([ours(0)], [ours(1)], [ours(0)], [ours(2)], [ours(3)])

    async def failed() -> bool:
        return bool(asked.failures)

    async with asked.watch.watching():
        await eventually(failed, "the twin is noticed")
    assert [str(each) for each in asked.failures] == [
        "another worker has WORKER_INSTANCE_ID=w-1; give each worker its own"
    ]


async def test_a_worker_whose_twin_came_later_goes_on_and_is_not_ready_meanwhile(logs: list[EventDict]) -> None:
    asked = Asked(*[[ours(0)]] * SOON_TIMES, [ours(1)], [ours(0)], [ours(2)])
    async with asked.watch.watching():
        await eventually(lambda: asked.looked(SOON_TIMES + 5), "looks after its youth")
        with pytest.raises(OpsError, match="another worker has WORKER_INSTANCE_ID=w-1"):
            await asked.watch.ready()
    assert asked.failures == []
    assert [each["event"] for each in logs] == ["worker_instance_id_taken"]
