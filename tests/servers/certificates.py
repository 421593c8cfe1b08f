"""A certificate authority for tests and certificates by it, made with the openssl program."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .packages import find_program


class Authority:
    """A certificate authority in `folder`; `ca` is its certificate in PEM."""

    def __init__(self, folder: Path, name: str = "kombu-rs test authority") -> None:
        self.folder = folder
        self._openssl = find_program("openssl", "openssl")
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.crt"
        self._key = folder / "ca.key"
        self._new_key(self._key)
        self._run(
            "req", "-x509", "-new", "-key", self._key, "-sha256", "-days", "30",
            "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-out", self.ca,
        )  # fmt: skip

    def issue(
        self,
        name: str,
        *,
        hosts: tuple[str, ...] = ("DNS:localhost", "IP:127.0.0.1"),
        days: int = 30,
    ) -> tuple[Path, Path]:
        """A certificate for `hosts` (openssl's notation) and its key, in PEM; 0 `days`: expired."""
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.crt"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        self._new_key(key)
        self._run("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
        extensions.write_text(
            f"subjectAltName={','.join(hosts)}\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        self._run(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial",
            "-days", str(days), "-sha256", "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        return certificate, key

    def _new_key(self, path: Path) -> None:
        self._run(
            "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path
        )
        path.chmod(0o644)  # a server may run as another user

    def _run(self, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._openssl, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
