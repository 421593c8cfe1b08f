"""Compare an installed Kombu with kombu_rs.

    python -m api_surface --stock PYTHON           fail when the page is not what it should be
    python -m api_surface --stock PYTHON --write   write the page

Fails, too, when something differs without a reason in ``reasons.txt``, or a reason is stale.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .compare import Difference, compare
from .reasons import Reasons
from .render import render

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "api-surface.md"


def collect(python: str, package: str, like: dict[str, Any] | None = None) -> dict[str, Any]:
    """Describe a package in another interpreter.

    Ours runs in the interpreter that has stock Kombu, so that both find the same libraries.
    """
    command = [python, str(HERE / "collect.py"), package]
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        if like is not None:
            path = Path(folder, "like.json")
            path.write_text(json.dumps(like))
            command += ["--like", str(path)]
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:
                sys.exit(f"{package} is not installed: run 'make build'")
            # The package alone: what is installed beside it stays out of the way.
            Path(folder, package).symlink_to(Path(spec.origin).parent)
            environment["PYTHONPATH"] = folder
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, env=environment
        )
    if done.returncode:
        sys.exit(f"describing {package} with {python} failed")
    described: dict[str, Any] = json.loads(done.stdout)
    return described


def explain(
    differences: list[Difference], reasons: Reasons
) -> tuple[list[tuple[Difference, str]], list[str]]:
    """Give each difference its reason; the second list says what is wrong."""
    explained = []
    wrong = []
    for difference in differences:
        reason = reasons.reason(difference)
        if reason is None:
            wrong.append(f"no reason: {difference.where} {difference.kind} ({difference.detail})")
        explained.append((difference, reason or "no reason"))
    wrong += [
        f"stale reason in line {entry.line}: {entry.place} {entry.kind}"
        for entry in reasons.stale()
    ]
    return explained, wrong


def main() -> None:
    parser = argparse.ArgumentParser(prog="api_surface", description=__doc__)
    parser.add_argument("--stock", required=True, help="a Python that has stock Kombu")
    parser.add_argument("--write", action="store_true", help="write the page")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page; default %(default)s")
    parser.add_argument("--reasons", type=Path, default=HERE / "reasons.txt")
    options = parser.parse_args()
    stock = collect(options.stock, "kombu")
    ours = collect(options.stock, "kombu_rs", stock)
    differences = list(compare(stock, ours))
    explained, wrong = explain(differences, Reasons.read(options.reasons))
    version = stock[""]["names"]["__version__"]["value"].strip("'")
    page = render(stock, explained, version)
    if options.write:
        options.page.parent.mkdir(exist_ok=True)
        options.page.write_text(page)
    elif not options.page.exists() or options.page.read_text() != page:
        wrong.append(f"{options.page} is out of date: run 'make api-surface'")
    if wrong:
        sys.exit(
            "\n".join([*wrong, f"{len(wrong)} things to mend, or to explain in {options.reasons}"])
        )
    print(f"{len(differences)} differences, each with its reason")


if __name__ == "__main__":
    main()
