"""What is published of a session, sealed and opened: the pipeline's side of `store.session_keys`."""

from collections.abc import Collection, Sequence
from typing import Protocol

from schemas.sealed import is_sealed
from store.errors import WrongKey


class Seals(Protocol):
    """What the pipeline asks of session keys."""

    async def seal(self, session_id: str, data: bytes) -> bytes:
        """`data` as it is published.

        Raises:
            StoreError, PublishError: there is no key to seal with at the moment.
        """
        ...

    async def open(self, value: bytes, *, anew: bool = False) -> bytes:
        """What was published. `anew`: as keys are now, whatever this process remembers.

        Raises:
            KeyDestroyed
            CorruptSession: the value was changed.
            StoreUnavailable: the key can't be had at the moment, or (WrongKey) not with the master keys that are set.
        """
        ...

    async def opened(self, values: Sequence[bytes | None], *, without_wrong_keys: bool = False) -> list[bytes | None]:
        """Values as they were published, sealed or not, with those opened that can be: what is sealed still was
        erased, or changed. Raises StoreUnavailable, as `open`; with `without_wrong_keys`, what needs a master key that
        is not set stays sealed as well."""
        ...

    def distrust_index(self) -> None:
        """The store may have lost writes: before a key counts as destroyed, all of the keys topic is read again."""
        ...

    async def keep_up(self, *, beat: bool) -> None:
        """To be called now and then, so that nothing that is asked for takes long; with `beat` by one process of all,
        so that what was destroyed goes from the topic's files.

        Raises:
            StoreUnavailable, PublishError
        """
        ...

    async def ids_of(self, session_id: str) -> list[str]:
        """The ids of all keys that the session has. Raises StoreUnavailable."""
        ...

    async def destroy(self, session_id: str, key_ids: Collection[str]) -> None:
        """Nobody can open what was sealed with these keys once this returns. Safe to repeat.

        Raises:
            StoreUnavailable, PublishError: do it again; it may have been done in part.
        """
        ...


class NoKeys:
    """Nothing is sealed; what was, can't be read."""

    async def seal(self, session_id: str, data: bytes) -> bytes:
        return data

    async def open(self, value: bytes, *, anew: bool = False) -> bytes:
        if is_sealed(value):
            raise WrongKey("The topics are encrypted: set SESSION_ENCRYPTION_ENABLED and SESSION_ENCRYPTION_KEY.")
        return value

    async def opened(self, values: Sequence[bytes | None], *, without_wrong_keys: bool = False) -> list[bytes | None]:
        if without_wrong_keys:
            return list(values)
        return [None if value is None else await self.open(value) for value in values]

    def distrust_index(self) -> None:
        return None

    async def keep_up(self, *, beat: bool) -> None:
        return None

    async def ids_of(self, session_id: str) -> list[str]:
        return []

    async def destroy(self, session_id: str, key_ids: Collection[str]) -> None:
        if key_ids:
            raise WrongKey("A deletion must destroy keys: set SESSION_ENCRYPTION_ENABLED and SESSION_ENCRYPTION_KEY.")


NO_KEYS = NoKeys()
