"""What events do to a session: the rules that are no part of the fold."""

from dataclasses import replace

import pytest

from schemas.inbound import MAX_METADATA_BYTES, Changes, Scalar
from schemas.session import SessionData
from workers.decision import effective
from workers.errors import PermanentError

SESSION = SessionData(session_id="s1", epoch=1, seq=1, version=1, metadata={"note": "x" * 3_000})


def test_metadata_stays_within_its_bound_however_many_patches_come() -> None:
    """The cost of a turn is bounded: a session is written whole with every turn."""
    with pytest.raises(PermanentError, match=str(MAX_METADATA_BYTES)):
        effective(Changes(metadata={"another": "x" * 3_000}), SESSION)
    assert effective(Changes(metadata={"note": "y" * 3_000}), SESSION).metadata == {"note": "y" * 3_000}


def test_what_is_counted_is_metadata_too() -> None:
    nearly_all: dict[str, Scalar] = {"note": "x" * (MAX_METADATA_BYTES - 100)}
    many = Changes(counters={f"{n:0120}": 1 for n in range(2)})
    with pytest.raises(PermanentError, match=str(MAX_METADATA_BYTES)):
        effective(many, replace(SESSION, metadata=nearly_all))
    with pytest.raises(PermanentError, match=str(MAX_METADATA_BYTES)):
        effective(replace(many, metadata=nearly_all), None)
    assert effective(many, None) is many


def test_of_two_claims_the_first_counts() -> None:
    claim = Changes(claimed=True)
    assert effective(claim, None).claimed
    assert effective(claim, SESSION).claimed
    claimed = SessionData(session_id="s1", epoch=1, seq=2, version=2, claimed=True)
    assert effective(claim, claimed).claimed is None


def test_an_update_never_replaces_a_known_fingerprint() -> None:
    """X: otherwise who holds a stolen token could become the one that the session began with."""
    update = Changes(fingerprint_hash="another", thread_id="t1")
    known = SessionData(session_id="s1", epoch=1, seq=1, version=1, fingerprint_hash="first")
    assert effective(update, known) == Changes(thread_id="t1")
    assert effective(update, SESSION) == update
    gone = SessionData(session_id="s1", epoch=1, seq=2, version=2, deleted=True)
    assert effective(update, gone) == update


def test_a_claim_that_comes_second_leaves_no_fingerprint() -> None:
    """X: the first began without one; the second must not lock it out."""
    claimed = SessionData(session_id="s1", epoch=1, seq=1, version=1, claimed=True)
    assert effective(Changes(claimed=True, fingerprint_hash="second"), claimed) == Changes()
