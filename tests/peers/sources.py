"""The suites' sources: from the package index, checked by digest, kept outside the repository."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: What of a source distribution is kept: the tests and pytest's settings, nothing importable
#: under the names `kombu` or `celery`.
KEPT = ("t", "setup.cfg", "pyproject.toml", "conftest.py")


@dataclass(frozen=True)
class Source:
    """One source distribution of the package index."""

    name: str
    version: str
    sha256: str

    def folder(self, cache: Path) -> Path:
        """Where its tests are, fetched on first use.

        Raises:
            ValueError: what the index gave has another digest.
            subprocess.CalledProcessError: it cannot be fetched.
        """
        folder = cache / f"{self.name}-{self.version}"
        if not folder.exists():
            with tempfile.TemporaryDirectory() as scratch:
                unpacked = self._unpack(self._download(Path(scratch)), Path(scratch))
                fresh = folder.with_suffix(".new")
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir(parents=True)
                for name in KEPT:
                    if (unpacked / name).exists():
                        shutil.move(unpacked / name, fresh / name)
                fresh.rename(folder)
        return folder

    def _download(self, scratch: Path) -> Path:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--no-binary", ":all:", "--dest", str(scratch), f"{self.name}=={self.version}"]
        subprocess.run(pip, check=True)
        archive = scratch / f"{self.name}-{self.version}.tar.gz"
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != self.sha256:
            raise ValueError(f"{archive.name} has the digest {found}, expected {self.sha256}")
        return archive

    def _unpack(self, archive: Path, scratch: Path) -> Path:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        return scratch / f"{self.name}-{self.version}"


KOMBU = Source("kombu", "5.7.0", "31e62fdfd2381caa3422f8e02b84a491d9a2180ddda74507b57f4cb1e1c2c2c9")
CELERY = Source(
    "celery", "5.7.0", "6a5dfcf6662287204f009a02002b9e66c83d4105e47ebabdc7079108772fc6f0"
)
