"""Addresses of object stores, and what their refusals mean."""

from __future__ import annotations

import pytest

from kie_mj_async.errors import ConfigError
from kie_mj_async.rules import objects

SECRET = "wJalrXUtnFEMI/K7MDENG"


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("s3://bucket/prefix", True),
        ("S3://bucket", True),
        ("gs://bucket", True),
        ("az://container/x", True),
        ("abfss://container@account.dfs.core.windows.net/x", True),
        ("file:///tmp/out", True),
        ("memory://", True),
        ("https://bucket.s3.amazonaws.com/x", True),
        ("renders", False),
        ("./s3:/bucket", False),
        ("s3:/bucket", False),
        ("/home/me/s3://x", False),
        ("C:\\renders", False),
        ("C:/renders", False),
        ("c://renders", False),
        ("", False),
    ],
)
def test_a_store_is_told_from_a_directory(out: str, told: bool) -> None:
    """What has a scheme is no directory; a drive letter is no scheme."""
    assert objects.is_store_url(out) is told


@pytest.mark.parametrize(
    ("url", "root", "escaped", "family"),
    [
        ("s3://bucket", "s3://bucket", "s3://bucket", "AWS"),
        ("s3://bucket/", "s3://bucket", "s3://bucket", "AWS"),
        ("S3://bucket/a/b/", "s3://bucket/a/b", "s3://bucket/a/b", "AWS"),
        ("s3a://my.bucket-1//a", "s3a://my.bucket-1/a", "s3a://my.bucket-1/a", "AWS"),
        ("gs://my_bucket/a b", "gs://my_bucket/a b", "gs://my_bucket/a%20b", "GOOGLE"),
        ("s3://b/100% #1", "s3://b/100% #1", "s3://b/100%25%20%231", "AWS"),
        ("s3://b/a%20b", "s3://b/a%20b", "s3://b/a%2520b", "AWS"),
        ("az://box/ü", "az://box/ü", "az://box/%C3%BC", "AZURE"),
        (
            "abfss://box@me.dfs.core.windows.net/x",
            "abfss://box@me.dfs.core.windows.net/x",
            "abfss://box@me.dfs.core.windows.net/x",
            "AZURE",
        ),
    ],
)
def test_an_address_is_taken_literally(url: str, root: str, escaped: str, family: str) -> None:
    """People see what they wrote; the client library gets it escaped."""
    assert objects.parse(url) == objects.Address(root, escaped, family)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("renders", "'renders': not an object store"),
        ("file:///tmp/out", "use a plain directory"),
        ("memory://", "use a plain directory"),
        (f"https://bucket.s3.amazonaws.com/x?X-Amz-Signature={SECRET}", "s3://bucket/prefix"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3://bu cket/x", "names no bucket"),
        ("az://@me/x", "names no bucket"),
        (f"s3://AKIA:{SECRET}@bucket/x", "names no bucket"),
        (f"s3://AKIA:{SECRET.replace('/', '')}@bucket/x", "credentials are not part"),
        (f"abfs://me:{SECRET.replace('/', '')}@bucket/x", "credentials are not part"),
        (f"az://box/x?sig={SECRET}", "no '?' in it"),
        ("s3://bucket/a/../b", "empty steps"),
        ("s3://bucket/a//b", "empty steps"),
        ("s3://bucket/./a", "empty steps"),
        ("s3://bucket/a\nb", "control characters"),
    ],
)
def test_bad_addresses_are_refused(url: str, words: str) -> None:
    """Each with a reason, and without repeating what may be secret."""
    with pytest.raises(ConfigError) as caught:
        objects.parse(url)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)
    assert SECRET.replace("/", "") not in str(caught.value)


def test_settings_are_divided() -> None:
    """The connection's settings come from the environment too, and what is given goes first."""
    environ = {
        "AWS_ALLOW_HTTP": "True",
        "AWS_ALLOW_INVALID_CERTIFICATES": "0",
        "AWS_PROXY_URL": "http://proxy",
        "AWS_REGION": "read by the library",
        "GOOGLE_ALLOW_HTTP": "true",
    }
    given = {"region": "eu", "timeout": "5s", "proxy_url": "http://mine"}
    assert objects.split_settings("AWS", given, environ) == (
        {"region": "eu"},
        {
            "allow_http": True,
            "allow_invalid_certificates": False,
            "proxy_url": "http://mine",
            "timeout": "5s",
        },
    )
    assert objects.split_settings("AZURE", {}, environ) == ({}, {})


def _status(status: int, code: str = "") -> str:
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>" if code else SECRET
    return f"Error performing PUT http://{SECRET}/ - ... status code: {status} Words: {body}"


@pytest.mark.parametrize(
    ("kind", "text", "words", "settings"),
    [
        ("PermissionDeniedError", _status(403, "AccessDenied"), "(HTTP 403 AccessDenied)", True),
        ("UnauthenticatedError", _status(401), "credentials were refused (HTTP 401)", True),
        ("GenericError", _status(403, f"X{SECRET}"), "credentials were refused (HTTP 403)", True),
        ("FileNotFoundError", _status(404, "NoSuchBucket"), "no such bucket", True),
        ("GenericError", _status(404, "NoSuchBucket"), "no such bucket", True),
        ("GenericError", _status(501, "NotImplemented"), "only if its name is free", True),
        ("NotSupportedError", SECRET, "only if its name is free", True),
        ("GenericError", _status(301, "PermanentRedirect"), "another region (HTTP 301", True),
        ("GenericError", _status(400, "AuthorizationHeaderMalformed"), "AWS_REGION", True),
        ("GenericError", "incorrectly configured region", "another region", True),
        ("GenericError", _status(503, "SlowDown"), "in trouble (HTTP 503 SlowDown)", False),
        ("GenericError", _status(429), "in trouble (HTTP 429)", False),
        (
            "GenericError",
            _status(400, "EntityTooLarge"),
            "refused (HTTP 400 EntityTooLarge)",
            False,
        ),
        ("GenericError", "HTTP error: error sending request", "cannot be reached", False),
        ("GenericError", "HTTP error: x\n kind: Timeout", "did not answer in time", False),
        ("GenericError", "HTTP error: x\n source: BadScheme", "AWS_ALLOW_HTTP", True),
        ("GenericError", "PUT http://169.254.169.254/latest/api/token", "no complete cred", True),
        ("GenericError", "Missing SecretAccessKey", "no complete credentials", True),
        ("GenericError", "Account must be specified", "AZURE_STORAGE_ACCOUNT_NAME", True),
        ("UnknownConfigurationKeyError", SECRET, "name that is not known", True),
        ("GenericError", SECRET, "it refused (GenericError)", False),
    ],
)
def test_a_refusal_is_told_in_words(kind: str, text: str, words: str, settings: bool) -> None:
    """Status and code at most are passed on; whether the user must act is told."""
    refusal = objects.explain(kind, text + "\n\nDebug source:\n" + SECRET * 100)
    assert words in refusal.words
    assert refusal.settings is settings
    assert SECRET not in refusal.words
    assert len(refusal.words) < 200
