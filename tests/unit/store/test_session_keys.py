"""Session keys over an index and a topic in memory: what can be opened, by whom, and what never again."""

import asyncio
from dataclasses import replace

import pytest

from schemas.sealed import is_sealed, parse_sealed
from store.encryption import new_key
from store.errors import CorruptSession, KeyDestroyed, KeysUnavailable, StoreUnavailable, WrongKey
from store.seals import NO_KEYS
from store.session_keys import Mark
from tests.contract.keys import MASTER, System

TEXT = b'{"text": "a canary"}'


@pytest.fixture
def system() -> System:
    return System()


async def test_what_one_process_seals_any_other_opens(system: System) -> None:
    sealed = await system.process().seal("s", TEXT)
    assert is_sealed(sealed)
    assert b"canary" not in sealed
    assert await system.process().open(sealed) == TEXT


async def test_a_session_is_sealed_with_one_key_whoever_seals(system: System) -> None:
    one, other = system.process(), system.process()
    values = [await one.seal("s", TEXT), await other.seal("s", TEXT), await one.seal("s", TEXT)]
    assert len({parse_sealed(value).key_id for value in values}) == 1
    assert len(set(values)) == 3, "no nonce comes twice"


async def test_two_that_begin_a_session_at_once_can_both_be_read(system: System) -> None:
    one, other = system.process(), system.process()
    values = await asyncio.gather(one.seal("s", TEXT), other.seal("s", TEXT))
    assert [await system.process().open(value) for value in values] == [TEXT, TEXT]
    assert await system.process().ids_of("s") == sorted({entry.key_id for entry in system.log.entries})


async def test_a_key_is_in_the_topic_before_anything_is_sealed_with_it(system: System) -> None:
    system.log.away = True
    with pytest.raises(KeysUnavailable):
        await system.process().seal("s", TEXT)
    assert not system.index.keys


async def test_sessions_cannot_open_each_others_values(system: System) -> None:
    keys = system.process()
    mine, yours = await keys.seal("mine", TEXT), await keys.seal("your", TEXT)
    claimed = yours.replace(b"your", b"mine")
    with pytest.raises(KeyDestroyed):
        await keys.open(claimed)
    key_id = bytes.fromhex(parse_sealed(yours).key_id), bytes.fromhex(parse_sealed(mine).key_id)
    with pytest.raises(CorruptSession):
        await keys.open(claimed.replace(*key_id))


@pytest.mark.parametrize("place", [1, 2, 10, 25, 40, -1])
async def test_a_value_that_was_changed_is_not_opened(system: System, place: int) -> None:
    keys = system.process()
    value = bytearray(await keys.seal("s", TEXT))
    value[place] ^= 1
    with pytest.raises((CorruptSession, KeyDestroyed)):
        await keys.open(bytes(value))
    assert await keys.opened([bytes(value)]) == [bytes(value)]


async def test_what_was_never_sealed_is_as_it_was(system: System) -> None:
    keys = system.process()
    assert await keys.open(TEXT) == TEXT
    assert await keys.opened([TEXT, None, b"", b"\x01"]) == [TEXT, None, b"", b"\x01"]


async def test_many_are_opened_at_once_in_their_order(system: System) -> None:
    keys = system.process()
    texts = [f'{{"n": {n}}}'.encode() for n in range(50)]
    values = [await keys.seal(f"s{n % 7}", text) for n, text in enumerate(texts)]
    assert await system.process().opened([*values, TEXT]) == [*texts, TEXT]


# ---- destroying


async def test_what_was_sealed_with_a_destroyed_key_nobody_opens(system: System) -> None:
    sealer, reader = system.process(), system.process()
    mine, other = await sealer.seal("s", TEXT), await sealer.seal("other", TEXT)
    await sealer.destroy("s", await sealer.ids_of("s"))
    for process in (sealer, reader, system.process()):
        with pytest.raises(KeyDestroyed):
            await process.open(mine)
        assert await process.opened([mine, other]) == [mine, TEXT]
    assert system.readable == 1


async def test_a_process_that_had_the_key_forgets_it_in_time(system: System) -> None:
    sealer, reader = system.process(), system.process()
    sealed = await sealer.seal("s", TEXT)
    assert await reader.open(sealed) == TEXT
    await sealer.destroy("s", await sealer.ids_of("s"))
    system.time.now += 301
    with pytest.raises(KeyDestroyed):
        await reader.open(sealed)


async def test_a_later_life_of_the_session_has_another_key_which_the_same_deletion_again_leaves(
    system: System,
) -> None:
    ingress, worker = system.process(), system.process()
    before = await ingress.seal("s", TEXT)
    key_ids = await worker.ids_of("s")
    await worker.destroy("s", key_ids)
    after = await ingress.seal("s", TEXT)
    await worker.destroy("s", key_ids)
    assert await system.process().open(after) == TEXT
    with pytest.raises(KeyDestroyed):
        await system.process().open(before)


async def test_a_deletion_that_broke_off_is_repeated(system: System) -> None:
    worker = system.process()
    sealed = await worker.seal("s", TEXT)
    key_ids = await worker.ids_of("s")
    system.log.away = True
    with pytest.raises(KeysUnavailable):
        await worker.destroy("s", key_ids)
    system.log.away = False
    assert system.readable == 1
    await system.process().destroy("s", key_ids)
    assert system.readable == 0
    system.index.flush()
    with pytest.raises(KeyDestroyed):
        await system.process().open(sealed)


async def test_all_keys_of_a_session_are_known_also_those_that_the_index_lost(system: System) -> None:
    keys = system.process()
    values = []
    for _ in range(3):
        values.append(await keys.seal("s", TEXT))
        system.index.flush()
    ids = await system.process().ids_of("s")
    assert len(ids) == 3
    await keys.destroy("s", ids)
    assert await system.process().opened(values) == values


# ---- an index that is away, or forgot


async def test_a_flush_of_the_index_loses_no_key(system: System) -> None:
    keys = system.process()
    values = [await keys.seal(f"s{n}", TEXT) for n in range(10)]
    system.index.flush()
    assert await system.process().opened(values) == [TEXT] * 10
    assert await keys.seal("s1", TEXT)
    assert await system.process().opened(values) == [TEXT] * 10


async def test_what_is_destroyed_stays_so_after_a_flush(system: System) -> None:
    keys = system.process()
    sealed = await keys.seal("s", TEXT)
    await keys.destroy("s", await keys.ids_of("s"))
    system.index.flush()
    system.log.compact()
    with pytest.raises(KeyDestroyed):
        await system.process().open(sealed)


async def test_keys_that_the_index_lost_without_a_sign_are_found_in_the_topic(system: System) -> None:
    keys = system.process()
    values = [await keys.seal(f"s{n}", TEXT) for n in range(5)]
    await keys.follow()
    system.index.lose(("s3", parse_sealed(values[3]).key_id))
    assert await system.process().opened(values) == [TEXT] * 5


async def test_a_process_that_read_all_of_the_topic_reads_it_again_when_the_index_lost_something(
    system: System,
) -> None:
    keys, reader = system.process(), system.process()
    gone, values = await keys.seal("gone", TEXT), [await keys.seal(f"s{n}", TEXT) for n in range(5)]
    await keys.destroy("gone", await keys.ids_of("gone"))
    await keys.follow()
    system.index.destroyed.clear()  # some days later
    assert await reader.opened([gone]) == [gone]
    assert system.log.reads.count(0) == 2
    system.time.now += 301
    assert await reader.opened([gone]) == [gone]
    assert system.log.reads.count(0) == 2, "it read all before, and nothing was lost"
    system.index.lose(("s3", parse_sealed(values[3]).key_id))
    reader.distrust_index()
    assert await reader.opened(values) == [TEXT] * 5


async def test_only_what_is_new_in_the_topic_is_read(system: System) -> None:
    keys = system.process()
    for n in range(4):
        await keys.seal(f"s{n}", TEXT)
    await keys.follow()
    await keys.seal("new", TEXT)
    await system.process().follow()
    assert system.log.reads == [0, 4]


async def test_without_the_index_it_is_sealed_with_a_key_of_its_own_which_others_find(system: System) -> None:
    keys = system.process()
    before = await keys.seal("s", TEXT)
    system.index.away = True
    values = [await keys.seal("s", TEXT), await keys.seal("s", TEXT)]
    assert len({parse_sealed(value).key_id for value in values}) == 1
    with pytest.raises(StoreUnavailable):
        await system.process().open(values[0])
    system.index.away = False
    assert await system.process().opened([before, *values]) == [TEXT] * 3
    assert len(await system.process().ids_of("s")) == 2


@pytest.mark.parametrize("mark", [0, 10], ids=["of a new index", "of one that follows"])
async def test_an_index_that_is_flushed_while_it_is_read_into_is_read_into_again(system: System, mark: int) -> None:
    keys = system.process()
    values = [await keys.seal(f"s{n}", TEXT) for n in range(10)]
    if mark:
        await keys.follow()
        system.index.lose(*list(system.index.keys))
    else:
        system.index.flush()
    save_mark = system.index.save_mark

    async def flushed_before(before: Mark, offset: int) -> bool:
        system.index.save_mark = save_mark  # type: ignore[method-assign]
        system.index.flush()
        return await save_mark(before, offset)

    system.index.save_mark = flushed_before  # type: ignore[method-assign]
    reader = system.process()
    assert await reader.opened(values) == [TEXT] * 10


async def test_a_deletion_finds_keys_that_somebody_removed_from_the_index(system: System) -> None:
    keys = system.process()
    sealed = await keys.seal("s", TEXT)
    await keys.follow()
    system.index.lose(("s", parse_sealed(sealed).key_id))
    worker = system.process()
    assert await worker.ids_of("s") == [parse_sealed(sealed).key_id]


async def test_who_asks_anew_is_told_of_a_deletion_at_once(system: System) -> None:
    worker, other = system.process(), system.process()
    sealed = await worker.seal("s", TEXT)
    assert await worker.open(sealed, anew=True) == TEXT
    await other.destroy("s", await other.ids_of("s"))
    assert await worker.open(sealed) == TEXT
    with pytest.raises(KeyDestroyed):
        await worker.open(sealed, anew=True)


# ---- the master key


async def test_another_master_key_opens_nothing_and_says_so(system: System) -> None:
    sealed = await system.process().seal("s", TEXT)
    with pytest.raises(WrongKey):
        await system.process(new_key()).open(sealed)
    with pytest.raises(WrongKey):
        await system.process(new_key()).seal("s", TEXT)


async def test_after_a_rotation_the_new_master_key_alone_opens_all(system: System) -> None:
    new, keys = new_key(), system.process()
    values = [await keys.seal(f"s{n}", TEXT) for n in range(8)]
    await keys.follow()
    survey = await system.rewrapping(new, MASTER).survey(lambda done, total: None)
    assert (survey.keys, survey.outdated, survey.locked) == (8, 8, 0)
    assert (await system.rewrapping(new).survey(lambda done, total: None)).locked == 8

    report = await system.rewrapping(new, MASTER).run(lambda done, total: None)
    assert (report.rewrapped, report.already, report.unreadable) == (8, 0, 0)
    assert await system.process(new).opened(values) == [TEXT] * 8
    system.index.flush()
    system.log.compact()
    assert await system.process(new).opened(values) == [TEXT] * 8
    again = await system.rewrapping(new, MASTER).run(lambda done, total: None)
    assert (again.rewrapped, again.already) == (0, 8)


async def test_a_key_that_is_destroyed_while_it_is_wrapped_anew_stays_destroyed(system: System) -> None:
    new, keys = new_key(), system.process()
    sealed = await keys.seal("s", TEXT)
    await keys.follow()
    append = system.log.append

    async def destroyed_before(session_id: str, key_id: str, wrapped: bytes | None) -> int:
        system.log.append = append  # type: ignore[method-assign]
        await keys.destroy("s", await keys.ids_of("s"))
        return await append(session_id, key_id, wrapped)

    system.log.append = destroyed_before  # type: ignore[method-assign]
    report = await system.rewrapping(new, MASTER).run(lambda done, total: None)
    assert report.rewrapped == 0
    assert system.readable == 0
    system.index.flush()
    with pytest.raises(KeyDestroyed):
        await system.process(new).open(sealed)


async def test_a_rotation_that_dies_while_it_revives_a_destroyed_key_is_undone_by_whoever_reads_on(
    system: System,
) -> None:
    new, keys = new_key(), system.process()
    sealed = await keys.seal("s", TEXT)
    await keys.follow()
    await keys.destroy("s", await keys.ids_of("s"))
    [entry] = [each for each in system.log.entries if each.wrapped is not None]
    await system.log.append("s", entry.key_id, entry.wrapped)
    assert system.readable == 1
    await system.process().follow()
    assert system.readable == 0
    appended = len(system.log.entries)
    await system.process().follow()
    await system.process().verify_index()
    assert len(system.log.entries) == appended, "a tombstone is enough"
    system.index.flush()
    system.log.compact()
    with pytest.raises(KeyDestroyed):
        await system.process(new, MASTER).open(sealed)


async def test_where_one_key_is_locked_the_others_open_for_who_wants_that(system: System) -> None:
    other = new_key()
    locked, mine = await system.process(other).seal("locked", TEXT), await system.process().seal("s", TEXT)
    keys = system.process()
    with pytest.raises(WrongKey):
        await keys.opened([locked, mine])
    assert await keys.opened([locked, mine], without_wrong_keys=True) == [locked, TEXT]


async def test_a_key_that_was_changed_in_the_index_opens_nothing(system: System) -> None:
    keys = system.process()
    sealed = await keys.seal("s", TEXT)
    [(name, key)] = system.index.keys.items()
    system.index.keys[name] = replace(key, wrapped=key.wrapped[:-1] + b"!")
    with pytest.raises(CorruptSession):
        await system.process().open(sealed)
    assert await system.process().opened([sealed], without_wrong_keys=True) == [sealed]


async def test_a_master_key_that_is_missing_leaves_its_keys_as_they_are(system: System) -> None:
    keys = system.process()
    await keys.seal("s", TEXT)
    await keys.follow()
    report = await system.rewrapping(new_key()).run(lambda done, total: None)
    assert (report.unreadable, report.unreadable_sessions) == (1, ("s",))
    assert len(system.log.entries) == 1


# ---- off


async def test_where_sealing_is_off_what_was_sealed_can_still_be_opened(system: System) -> None:
    sealed = await system.process().seal("s", TEXT)
    keys = system.process(seals=False)
    assert await keys.seal("s", TEXT) == TEXT
    assert await keys.open(sealed) == TEXT


async def test_without_any_key_nothing_is_sealed_and_nothing_that_was_is_taken_for_erased(system: System) -> None:
    sealed = await system.process().seal("s", TEXT)
    assert await NO_KEYS.seal("s", TEXT) == TEXT
    assert await NO_KEYS.opened([TEXT, None]) == [TEXT, None]
    with pytest.raises(WrongKey):
        await NO_KEYS.open(sealed)
    with pytest.raises(WrongKey):
        await NO_KEYS.opened([sealed])
    with pytest.raises(WrongKey):
        await NO_KEYS.destroy("s", ["00"])
    await NO_KEYS.destroy("s", [])
    assert await NO_KEYS.ids_of("s") == []


async def test_only_one_of_all_beats(system: System) -> None:
    await system.process().keep_up(beat=True)
    await system.process().keep_up(beat=False)
    assert system.log.beats == 1
