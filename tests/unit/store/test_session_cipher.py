"""What is sealed opens again, for the same session and with a key that is there; everything else is refused."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from store.encryption import PlainText, SessionCipher, new_key
from store.errors import CorruptSession, WrongKey

OLD, NEW = new_key(), new_key()
session_ids = st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True)


@given(session_ids, st.binary(max_size=2_000))
def test_any_bytes_come_back(session_id: str, data: bytes) -> None:
    cipher = SessionCipher([NEW])
    sealed = cipher.seal(session_id, data)
    assert cipher.open(session_id, sealed) == data
    assert cipher.seal(session_id, data) != sealed, "equal contents are not to be recognised"


@given(session_ids, session_ids, st.binary(max_size=100))
def test_what_was_sealed_for_another_session_is_refused(session_id: str, other: str, data: bytes) -> None:
    """X: also where one id begins with the other, or the data looks like an id."""
    assume(other != session_id)
    cipher = SessionCipher([NEW])
    sealed = cipher.seal(session_id, other.encode() + b"\n" + data)
    with pytest.raises(CorruptSession, match="another session"):
        cipher.open(other, sealed)


@given(st.data(), st.binary(max_size=100))
def test_a_changed_byte_is_noticed(draw: st.DataObject, data: bytes) -> None:
    cipher = SessionCipher([NEW])
    sealed = bytearray(cipher.seal("s1", data))
    place = draw.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= draw.draw(st.integers(1, 255))
    with pytest.raises((WrongKey, CorruptSession)):
        cipher.open("s1", bytes(sealed))


@given(st.permutations([new_key() for _ in range(3)]), st.integers(0, 2))
def test_the_first_key_seals_and_each_opens(keys: list[str], one: int) -> None:
    sealed = SessionCipher(keys).seal("s1", b"hello")
    assert SessionCipher([keys[0]]).open("s1", sealed) == b"hello"
    assert SessionCipher([*keys[1:], keys[0]]).open("s1", sealed) == b"hello"
    assert SessionCipher([keys[one]]).open("s1", SessionCipher(keys[one:]).seal("s1", b"hello")) == b"hello"


def test_key_ids_name_the_keys_in_order_and_tell_nothing_of_them() -> None:
    cipher = SessionCipher([NEW, OLD])
    assert cipher.key_ids == (SessionCipher([NEW]).key_id, SessionCipher([OLD]).key_id)
    assert cipher.key_id == cipher.key_ids[0]
    assert all(len(key_id) == 8 and key_id not in NEW + OLD for key_id in cipher.key_ids)


def test_a_key_that_is_gone_says_what_to_do() -> None:
    sealed = SessionCipher([OLD]).seal("s1", b"hello")
    with pytest.raises(WrongKey, match=r"s1 was encrypted with a key that is not in SESSION_ENCRYPTION_KEY: add it"):
        SessionCipher([NEW]).open("s1", sealed)


def test_plain_text_is_refused_by_a_cipher_and_sealed_text_without_one() -> None:
    with pytest.raises(WrongKey, match="supportstream keys rotate"):
        SessionCipher([NEW]).open("s1", b'{"session_id": "s1"}')
    with pytest.raises(WrongKey, match="SESSION_ENCRYPTION_ENABLED"):
        PlainText().open("s1", SessionCipher([NEW]).seal("s1", b"hello"))
    assert PlainText().open("s1", PlainText().seal("s1", b"{}")) == b"{}"


@pytest.mark.parametrize("keys", [[], ["short"], [NEW, "short"], [NEW[:-1]], ["é" * 44], [""]])
def test_what_is_no_key_is_refused(keys: list[str]) -> None:
    with pytest.raises(ValueError):
        SessionCipher(keys)
