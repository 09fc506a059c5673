"""Object stores: their addresses as users write them, and what a refusal of theirs means.

The words of a store's own errors hold addresses, headers and bodies, so none of them are passed on: only
the HTTP status and the store's error code, which is letters and digits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import quote

import attrs

from ..errors import ConfigError

Family = Literal["AWS", "GOOGLE", "AZURE"]
"""Whose settings apply; the environment variables' names begin with it."""

_FAMILIES: Final[Mapping[str, Family]] = {
    "s3": "AWS",
    "s3a": "AWS",
    "gs": "GOOGLE",
    "az": "AZURE",
    "azure": "AZURE",
    "adl": "AZURE",
    "abfs": "AZURE",
    "abfss": "AZURE",
}

# Two letters at least: one is a Windows drive.
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)

_SWITCHES: Final = ("allow_http", "allow_invalid_certificates")
_TEXTS: Final = ("proxy_url", "proxy_ca_certificate", "proxy_excludes", "user_agent")

_CLIENT_OPTIONS: Final = frozenset(
    {
        *_SWITCHES, *_TEXTS, "connect_timeout", "default_headers", "http1_only", "http2_only",
        "pool_idle_timeout", "pool_max_idle_per_host", "randomize_addresses", "read_timeout",
        "root_certificate", "timeout",
    }
)  # fmt: skip


def is_store_url(out: str) -> bool:
    """Whether a destination is the address of a store rather than a directory.

    Also true of addresses that :func:`parse` refuses (``file://``, ``https://``): nobody means a
    directory of that name.
    """
    return _URL.match(out) is not None


@attrs.frozen
class Address:
    """Where an object store is.

    Attributes:
        root: As the user means it, without a slash at the end: ``s3://bucket/my prefix``.
        url: The same, escaped for the client library.
        family: Whose settings apply.
    """

    root: str
    url: str
    family: Family


def parse(url: str) -> Address:
    """Take an address apart. What follows the bucket is taken literally: ``%20`` is no space.

    Raises:
        ConfigError: It is not one, or holds what does not belong into an address.
    """
    match = _URL.match(url)
    scheme = match[1].lower() if match else ""
    family = _FAMILIES.get(scheme)
    if match is None or family is None:
        hint = "use a plain directory" if scheme in ("file", "memory") else _FORM
        # What follows the scheme may be a link with a signature in it.
        what = f"{scheme}://..." if scheme else repr(url)
        raise ConfigError(f"{what}: not an object store that can be written to; {hint}")
    bucket, _, path = match[2].partition("/")
    user, at, _ = bucket.rpartition("@")
    if at and (family != "AZURE" or ":" in user):
        message = (
            f"{scheme}://...: credentials are not part of an address; set them in the environment"
        )
        raise ConfigError(message)
    if "?" in match[2]:
        raise ConfigError(f"{scheme}://...: an address has no '?' in it")
    if not re.fullmatch(r"[\w.@-]+", bucket, re.ASCII) or bucket.startswith("@"):
        raise ConfigError(f"{scheme}://...: names no bucket; {_FORM}")
    path = path.strip("/")
    if path and any(step in ("", ".", "..") for step in path.split("/")):
        message = f"{scheme}://{bucket}/...: '.', '..' and empty steps cannot be in the prefix"
        raise ConfigError(message)
    if any(ord(c) < 32 or ord(c) == 127 for c in path):
        message = f"{scheme}://{bucket}/...: control characters cannot be in the prefix"
        raise ConfigError(message)
    root = f"{scheme}://{bucket}/{path}".rstrip("/")
    return Address(root, f"{scheme}://{bucket}/{quote(path)}".rstrip("/"), family)


_FORM: Final = "an object store is written as s3://bucket/prefix (also gs://, az://)"


def split_settings(
    family: Family, config: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide settings into those of the store and those of its HTTP client.

    The client library reads the first kind from the environment by itself, and the second kind only
    where it is given none: so they are read here.

    Returns:
        The store's, and the client's.
    """
    store = {key: value for key, value in config.items() if key not in _CLIENT_OPTIONS}
    client: dict[str, Any] = {}
    for key in _SWITCHES:
        if text := environ.get(f"{family}_{key.upper()}"):
            client[key] = text.strip().lower() in ("true", "1", "yes", "on")
    for key in _TEXTS:
        if text := environ.get(f"{family}_{key.upper()}"):
            client[key] = text
    client |= {key: value for key, value in config.items() if key in _CLIENT_OPTIONS}
    return store, client


@attrs.frozen
class Refusal:
    """Why a store refused.

    Attributes:
        words: For people; holds nothing secret.
        settings: Whether it is for the user to change something; otherwise it may be gone later.
    """

    words: str
    settings: bool


def explain(kind: str, text: str) -> Refusal:
    """What an error of the client library means.

    Args:
        kind: Its class's name.
        text: Its message, of which nothing but status and code is passed on.
    """
    status_found = re.search(r"status code: (\d{3})\b", text)
    status = int(status_found[1]) if status_found else 0
    code_found = re.search(r"<Code>([A-Za-z0-9]{1,60})</Code>", text)
    code = code_found[1] if code_found else ""
    answer = f" (HTTP {status}{f' {code}' if code else ''})" if status else ""

    if "Account must be specified" in text:
        return Refusal("no account is named; set AZURE_STORAGE_ACCOUNT_NAME", True)
    if any(host in text for host in _METADATA_HOSTS) or re.search(r"\bMissing[ A-Z]", text):
        return Refusal(_NO_CREDENTIALS, True)
    if kind == "UnknownConfigurationKeyError":
        return Refusal("one of its settings has a name that is not known", True)
    if "BadScheme" in text:
        return Refusal("its endpoint is plain http; AWS_ALLOW_HTTP=true allows that", True)
    if code in _REGION_CODES or status in (301, 307) or "configured region" in text:
        return Refusal(f"its bucket is in another region{answer}; set AWS_REGION", True)
    if status in (401, 403) or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        words = f"the credentials were refused{answer}; check them, and that they may list, read"
        return Refusal(f"{words}, write and delete there", True)
    if status == 404 or kind == "FileNotFoundError":
        return Refusal(f"there is no such bucket{answer}; create it, or check its name", True)
    if status in (405, 501) or kind in ("NotSupportedError", "NotImplementedError"):
        return Refusal(f"it cannot create an object only if its name is free{answer}", True)
    if status >= 500 or status in (408, 429):
        return Refusal(f"it is in trouble{answer}; resume later", False)
    if status:
        return Refusal(f"it refused{answer}", False)
    if re.search(r"kind: Timeout|timed out", text):
        return Refusal("it did not answer in time; check the network, and resume", False)
    if "HTTP error" in text:
        words = "it cannot be reached; check the network and the endpoint, and resume"
        return Refusal(words, False)
    return Refusal(f"it refused ({kind})", False)


_METADATA_HOSTS: Final = ("169.254.169.254", "metadata.google", "169.254.170.2")
"""Where a cloud's own machines get credentials: asked when no others are set."""

_NO_CREDENTIALS: Final = (
    "no complete credentials were found; set them in the environment "
    "(for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
)

_REGION_CODES: Final = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "TemporaryRedirect"}
)
