"""The form of a sealed value."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.sealed import head_of, is_sealed, parse_sealed
from schemas.session_keys import decode_key, encode_key, key_name, parse_key_name

session_ids = st.from_regex(r"[A-Za-z0-9._:-]{1,128}", fullmatch=True)
key_ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
nonces = st.binary(min_size=12, max_size=12)


@given(session_ids, key_ids, nonces, st.binary(min_size=16, max_size=64))
def test_what_is_put_together_is_taken_apart(session_id: str, key_id: str, nonce: bytes, ciphertext: bytes) -> None:
    head = head_of(session_id, key_id, nonce)
    sealed = parse_sealed(head + ciphertext)
    assert (sealed.session_id, sealed.key_id, sealed.nonce) == (session_id, key_id, nonce)
    assert (sealed.head, sealed.ciphertext) == (head, ciphertext)
    assert is_sealed(head + ciphertext)


@given(st.binary(max_size=400))
def test_anything_else_is_refused_or_taken_apart_and_never_crashes(data: bytes) -> None:
    for value in (data, b"\x01" + data):
        try:
            parse_sealed(value)
        except ValueError:
            continue


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_no_json_looks_sealed(body: dict[str, str]) -> None:
    assert not is_sealed(orjson.dumps(body))
    assert not is_sealed(b"")
    assert not is_sealed(None)


@given(session_ids, key_ids, st.binary(min_size=1, max_size=80))
def test_a_record_of_the_keys_topic_names_session_and_key(session_id: str, key_id: str, wrapped: bytes) -> None:
    assert parse_key_name(key_name(session_id, key_id).encode()) == (session_id, key_id)
    assert decode_key(encode_key(session_id, key_id, wrapped)).wrapped_bytes == wrapped


@pytest.mark.parametrize("key", [b"", b"#beat", b"s", b"s/", b"s/00", b"a b/" + b"0" * 32, b"\xff/" + b"0" * 32])
def test_other_keys_of_records_are_refused(key: bytes) -> None:
    with pytest.raises(ValueError):
        parse_key_name(key)
