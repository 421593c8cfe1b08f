"""Finds the programs that the tests need; installs their Debian packages where it may."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading

_installing = threading.Lock()


class ServerMissing(RuntimeError):
    """A program that a test needs is not there and may not be installed from here."""


def find_program(name: str, package: str) -> str:
    """The path of program `name`; as root on Debian, its `package` is installed if missing.

    Raises ServerMissing with the command to run when it may not be installed from here.
    """
    path = shutil.which(name)
    if path:
        return path
    advice = f"{name} was not found and a test needs it: run 'apt-get install {package}' as root"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ServerMissing(advice)
    with _installing:
        path = shutil.which(name)
        if path is None:
            _apt_install(package, advice)
            path = shutil.which(name)
    if path is None:
        raise ServerMissing(f"{advice} (the package was installed, yet brought no {name})")
    return path


def _apt_install(package: str, advice: str) -> None:
    # A policy that answers 101 keeps the package from starting its server on the default port.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", package]):
        done = subprocess.run(
            ["apt-get", "-qq", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode and arguments[0] == "install":
            raise ServerMissing(f"{advice} (apt-get failed here: {done.stderr.strip()[-500:]})")
