"""A key, held so that it does not show: in no repr, and in no traceback with its frames' locals."""

from __future__ import annotations

from types import TracebackType


class Secret:
    """A key that shows itself only when asked to."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    @classmethod
    def of(cls, value: str | bytes) -> Secret:
        """A key that somebody gave as text or bytes; bytes that are no text come back as they were."""
        return cls(value if isinstance(value, str) else value.decode(errors="surrogateescape"))

    def __bool__(self) -> bool:
        return bool(self._value)

    def reveal(self) -> str:
        """The key."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


def hidden(value: str | None) -> Secret | None:
    """A secret that somebody may have given."""
    return None if value is None else Secret(value)


class Unseen:
    """A block in which names hold secrets: an error leaves it without the frames below."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            error.__traceback__ = None
