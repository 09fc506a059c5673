"""A certificate authority of a test's own, and servers whose certificates it has signed."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import attrs


@attrs.frozen
class Authority:
    """The authority, which no system trusts.

    Attributes:
        folder: Where its files are.
    """

    folder: Path

    @property
    def ca_file(self) -> Path:
        """Its certificate."""
        return self.folder / "ca.pem"

    def serves(self, *names: str) -> ssl.SSLContext:
        """A server's context, with a certificate for these names or addresses."""
        name = names[0]
        key, cert = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        if not cert.exists():
            kinds = ("IP" if one[0].isdigit() else "DNS" for one in names)
            alternatives = ",".join(f"{kind}:{one}" for kind, one in zip(kinds, names, strict=True))
            _openssl(
                *("req", "-x509", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", cert),
                *("-CA", self.ca_file, "-CAkey", self.folder / "ca.key"),
                *("-addext", f"subjectAltName={alternatives}"),
                *("-addext", "basicConstraints=critical,CA:FALSE"),
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        return context


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


def authority_in(folder: Path) -> Authority:
    """A new authority."""
    _openssl(
        *("req", "-x509", *_KEY, "-subj", "/CN=An authority of a test"),
        *("-keyout", folder / "ca.key", "-out", folder / "ca.pem"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    return Authority(folder)


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)
