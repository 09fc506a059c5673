"""Connections to object stores through obstore, and its errors in words for people.

obstore is imported when the first store is made, never before.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import attrs

from ..errors import ConfigError, WriteFailed
from ..rules import objects

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Bucket

REQUEST_TIMEOUT: Final = 120
"""Seconds for one request: a part over a slow line that it shares with others takes a while."""

MAX_BACKOFF: Final = 5
"""Seconds between two tries of a request, at most."""

MAX_RETRIES: Final = 100
"""So many that the patience ends first: the waits between them are drawn, and may be short."""

_COPIES: Final = (
    "multipart",
    "header:if-none-match:*",
    "header:cf-copy-destination-if-none-match:*",
)
"""Ways of S3-like stores to copy only to a free name: S3 and most others, some others, Cloudflare R2."""


@attrs.frozen
class Connector:
    """Makes connections to one store.

    Attributes:
        root: The store's address, for people.
        ways: Ways to copy only to a free name that this store may know; ``None`` is the client
            library's own.
    """

    root: str
    ways: tuple[str | None, ...]
    _make: Callable[..., Any] = attrs.field(repr=False)
    _url: str = attrs.field(repr=False)
    _settings: Mapping[str, Any] = attrs.field(repr=False)
    _client: Mapping[str, Any] = attrs.field(repr=False)

    @classmethod
    def at(cls, url: str, config: Mapping[str, Any]) -> Connector:
        """The connector of an address; makes no connection yet.

        Raises:
            ConfigError: The address cannot be used, or the extra ``cloud`` is missing.
        """
        address = objects.parse(url)
        try:
            from obstore.store import from_url
        except ImportError:
            message = (
                f"{address.root}: object stores need an extra: pip install 'kie-mj-async[cloud]'"
            )
            raise ConfigError(message) from None
        settings, client = objects.split_settings(address.family, config, os.environ)
        ways: tuple[str | None, ...] = (None,)
        if address.family == "AWS":
            # Some S3-like stores cannot delete many objects in one request.
            settings.setdefault("disable_bulk_delete", True)
            known = {key.lower().removeprefix("aws_") for key in settings}
            if "copy_if_not_exists" not in known and "AWS_COPY_IF_NOT_EXISTS" not in os.environ:
                ways = _COPIES
        return cls(address.root, ways, from_url, address.url, settings, client)

    def connect(
        self,
        patience: float,
        *,
        retries: int = MAX_RETRIES,
        copying: str | None = None,
        media_type: str | None = None,
    ) -> Bucket:
        """Open it. No request is made yet.

        Args:
            patience: Seconds after which a request is not tried again.
            retries: How often it is tried again at most.
            copying: The way to copy only to a free name.
            media_type: What objects are whose type is not said otherwise.

        Raises:
            ConfigError: A setting cannot be used.
        """
        from obstore.exceptions import BaseError

        settings = dict(self._settings)
        if copying is not None:
            settings["copy_if_not_exists"] = copying
        client = {"timeout": f"{REQUEST_TIMEOUT}s", "connect_timeout": "10s", **self._client}
        if media_type is not None:
            client["default_content_type"] = media_type
        try:
            bucket: Bucket = self._make(
                self._url,
                client_options=client,
                retry_config={
                    "max_retries": retries,
                    "retry_timeout": timedelta(seconds=patience),
                    "backoff": {"max_backoff": timedelta(seconds=MAX_BACKOFF)},
                },
                **settings,
            )
        except (BaseError, ValueError, TypeError) as error:
            why = objects.explain(type(error).__name__, str(error))
            # Nothing has been asked yet, so it can only be a setting.
            words = why.words if why.settings else "one of its settings has a value it cannot have"
            raise ConfigError(f"{self.root}: cannot be used: {words}") from None
        return bucket

    @contextmanager
    def telling(self, trouble: str, *, at_start: bool = False) -> Iterator[None]:
        """Say the client library's errors in words for people, without what may be secret.

        Raises:
            ConfigError: At the start: something is for the user to change.
            WriteFailed: Anything else.
        """
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError, NotImplementedError) as error:
            if isinstance(error, FileNotFoundError) and error.errno is not None:
                raise  # a local file's
            why = objects.explain(type(error).__name__, str(error))
            message = f"{self.root}: {trouble}: {why.words}"
            if at_start and why.settings:
                raise ConfigError(message) from None
            raise WriteFailed(message, billed="no" if at_start else "yes") from None


async def refused(request: Awaitable[object]) -> bool:
    """Whether a request that needs a free name is refused because the name is taken."""
    from obstore.exceptions import AlreadyExistsError

    try:
        await request
    except AlreadyExistsError:
        return True
    return False


async def delete(bucket: Bucket, *names: str) -> None:
    """Delete objects; those that are gone already are no trouble."""
    import obstore

    for name in names:
        with suppress(FileNotFoundError):
            await obstore.delete_async(bucket, name)
