"""Certificates, passwords and web configurations for the tests of `--web.config.file`."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab import Exporter

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("-newkey", "rsa:2048")


def run(*command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What a tool says; it may fail."""
    command = tuple(map(str, command))
    return subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace", timeout=60)


def hash_of(password: str, cost: int = 5, version: str = "y") -> str:
    """htpasswd's bcrypt hash; it writes $2y$, others $2a$ and $2b$ for the same."""
    made = subprocess.run(["htpasswd", "-niBC", str(cost), ""], input=password, capture_output=True, text=True, check=True)
    return made.stdout.strip().removeprefix(":").replace("$2y$", f"$2{version}$", 1)


class Folder:
    """A directory of certificates and web configurations that goes away with its test."""

    def __init__(self, enter: Callable[[Any], Any]) -> None:
        """`enter` is the test's enterContext or enterClassContext."""
        self.path = Path(enter(tempfile.TemporaryDirectory(prefix="web-")))
        # Without the extensions that openssl's own configuration adds.
        self.write("openssl.cnf", "[req]\ndistinguished_name = dn\n[dn]\n")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, text: str | bytes) -> Path:
        """Writes a file by renaming, so that nobody sees half of it."""
        new = self.path / f"{name}.new"
        new.write_bytes(text if isinstance(text, bytes) else text.encode())
        return new.rename(self.path / name)

    def issue(self, name: str, *extensions: str, by: str | None = None, key: Sequence[str] = EC) -> None:
        """Makes `name`.pem and `name`.key, signed by the authority `by` or by itself."""
        signer = ("-CA", self / f"{by}.pem", "-CAkey", self / f"{by}.key") if by else ()
        added = [part for extension in extensions for part in ("-addext", extension)]
        made = run(
            *("openssl", "req", "-x509", "-config", self / "openssl.cnf", "-nodes", "-days", "2", *key, *signer),
            *("-subj", f"/CN={name}", "-out", self / f"{name}.pem", "-keyout", self / f"{name}.key", *added),
        )
        assert made.returncode == 0, made.stderr

    def issue_all(self) -> None:
        """Two authorities, a server, and a client of each."""
        for authority in ("ca", "strangers"):
            self.issue(authority, "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
        self.issue("server", "basicConstraints=CA:FALSE", "subjectAltName=DNS:localhost,IP:127.0.0.1", by="ca")
        names = "DNS:prometheus.example.org,IP:192.0.2.7,IP:2001:db8::7,email:p@example.org,URI:spiffe://example.org/p"
        self.issue("client", "basicConstraints=CA:FALSE", f"subjectAltName={names}", by="ca")
        self.issue("stranger", "basicConstraints=CA:FALSE", f"subjectAltName={names}", by="strangers")

    def exporter(self, *flags: str, config: str = "web.yml") -> Exporter:
        """One of no Dovecot in particular, with that web configuration."""
        log = self.write("dovecot.log", "")
        return Exporter(
            None, f"--web.config.file={self / config}", "--dovecot.doveconf=", f"--dovecot.log-file={log}", *flags
        )


TLS = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
