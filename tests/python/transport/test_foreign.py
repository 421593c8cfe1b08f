"""Transports of an installed Kombu and of third parties, under our Connection."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("foreign_program.py")


@pytest.mark.parametrize("transport", ["own", "memory", "filesystem", "redis"])
def test_foreign_transport(transport: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name = transport if transport == "own" else f"kombu.transport.{transport}:Transport"
    url = request.getfixturevalue("redis_url") if transport == "redis" else f"{transport}://"
    folder = str(tmp_path)
    options = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": folder}
    done = subprocess.run(
        [sys.executable, PROGRAM, name, url, json.dumps(options if "file" in name else {})],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
