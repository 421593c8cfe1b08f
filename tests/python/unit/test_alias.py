"""kombu is kombu-rs: in this process, and in those below ``kombu-rs run``."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import kombu_rs
from kombu_rs import launcher

ROOT = Path(kombu_rs.__file__).parent.parent


def python(code, *arguments, run=False, env=None, path=()):
    """Run ``code`` in a new process; returns (status, stdout, stderr)."""
    script = textwrap.dedent(code)
    command = [sys.executable, "-c", script, *arguments]
    if run:
        command = [sys.executable, "-m", "kombu_rs.launcher", "run", *command]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)]),
        **(env or {}),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def other_kombu(tmp_path):
    """A directory with another package called kombu, like an installed Kombu."""
    package = tmp_path / "elsewhere" / "kombu"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("OTHER = True\n")
    (package / "only_there.py").write_text("OTHER = True\n")
    return package.parent


def test_modules_are_the_same_objects():
    status, out, err = python("""
        import kombu_rs; kombu_rs.install_as_kombu(); kombu_rs.install_as_kombu()
        import kombu, kombu.transport.virtual.base
        from kombu.utils import url
        import kombu_rs.transport.virtual.base, kombu_rs.utils.url
        assert kombu is kombu_rs
        assert kombu.transport.virtual.base is kombu_rs.transport.virtual.base
        assert url is kombu_rs.utils.url
        assert kombu.Connection is kombu_rs.Connection
        assert kombu.entity.__spec__.name == "kombu_rs.entity"
        from unittest.mock import patch
        with patch("kombu.common.uuid") as uuid:
            from kombu_rs import common
            assert common.uuid is uuid
        print("same")
    """)
    assert (status, out) == (0, "same\n"), err


def test_never_falls_through(other_kombu):
    status, out, err = python(
        """
        import kombu_rs; kombu_rs.install_as_kombu()
        import kombu
        assert not hasattr(kombu, "OTHER")
        import importlib.util
        assert importlib.util.find_spec("kombu.only_there") is None
        try:
            import kombu.only_there
        except ModuleNotFoundError as exc:
            print(exc)
    """,
        path=[other_kombu],
    )
    assert status == 0, err
    assert out == "No module named 'kombu.only_there'\n"


@pytest.mark.parametrize("module", ["kombu.clocks", "kombu.transport.pyro"])
def test_modules_can_be_run(module, other_kombu):
    status, _, err = python(
        """
        import runpy, sys
        runpy.run_module(sys.argv[1], run_name="not main", alter_sys=True)
        """,
        module,
        run=True,
        path=[other_kombu],
    )
    assert status == 0, err


def test_too_late(other_kombu):
    status, out, err = python(
        """
        import kombu, kombu_rs
        assert kombu.OTHER
        try:
            kombu_rs.install_as_kombu()
        except RuntimeError as exc:
            print(exc)
    """,
        path=[other_kombu],
    )
    assert status == 0, err
    assert "too late" in out
    assert str(other_kombu) in out
    assert "kombu-rs run" in out


def test_run_reaches_children_of_every_kind(tmp_path, other_kombu):
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing, subprocess, sys

        def name(queue):
            import kombu
            queue.put(kombu.__name__)

        def grandchild(queue):
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=name, args=(queue,))
            process.start()
            process.join()

        if __name__ == "__main__":
            import kombu
            found = [kombu.__name__]
            for method in ("fork", "spawn", "forkserver"):
                context = multiprocessing.get_context(method)
                queue = context.Queue()
                process = context.Process(target=name, args=(queue,))
                process.start()
                found.append(queue.get(timeout=30))
                process.join()
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            process = context.Process(target=grandchild, args=(queue,))
            process.start()
            found.append(queue.get(timeout=30))
            process.join()
            code = "import kombu; print(kombu.__name__)"
            child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            found.append(child.stdout.strip())
            print(*found)
    """)
    )
    command = [sys.executable, "-m", "kombu_rs.launcher", "run", sys.executable, str(script)]
    path = os.pathsep.join([str(ROOT), str(other_kombu)])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path}
    )
    assert (done.returncode, done.stdout.split()) == (0, ["kombu_rs"] * 6), done.stderr


def test_run_keeps_the_environments_own_sitecustomize(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.chained = True\n")
    status, out, err = python(
        """
        import sys, sitecustomize
        import kombu
        print(kombu.__name__, sys.chained, sitecustomize.__file__)
    """,
        run=True,
        path=[tmp_path],
    )
    assert (status, out.split()) == (0, ["kombu_rs", "True", f"{tmp_path}/sitecustomize.py"]), err


def test_run_when_kombu_is_imported_at_start(tmp_path, other_kombu):
    # As a .pth file of a monitoring agent may do: before sitecustomize.
    (tmp_path / "usercustomize.py").write_text("")
    code = f"""
        import os, subprocess, sys
        sys.path[:0] = [{str(other_kombu)!r}]
        import kombu
        exec(open({str(launcher.HOOK_DIRECTORY / "sitecustomize.py")!r}).read())
    """
    status, _, err = python(code)
    assert status == 1
    assert "kombu-rs run: install_as_kombu() comes too late" in err


def test_run_in_a_python_without_kombu_rs(tmp_path, other_kombu):
    hook = launcher.HOOK_DIRECTORY
    done = subprocess.run(
        [sys.executable, "-c", "print(1); import kombu"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(hook), str(fake_absence(tmp_path)), str(other_kombu)]
            ),
        },
        timeout=60,
    )
    assert done.stdout == "1\n"
    assert "kombu-rs is not installed for its Python" in done.stderr


def fake_absence(directory):
    """A path entry with which ``import kombu_rs`` finds nothing, wherever it is installed."""
    (directory / "usercustomize.py").write_text("")
    (directory / "hide.py").write_text("")
    site = directory / "site"
    site.mkdir()
    hidden = textwrap.dedent("""
        import importlib.util
        _find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "kombu_rs" else _find(name, *a)
        exec(open({hook!r}).read())
    """).format(hook=str(launcher.HOOK_DIRECTORY / "sitecustomize.py"))
    (site / "sitecustomize.py").write_text(hidden)
    return site


def test_run_passes_status_and_arguments():
    status, out, _ = python("import sys; print(sys.argv[1:]); sys.exit(7)", "a", "-b", run=True)
    assert (status, out) == (7, "['a', '-b']\n")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "usage: kombu-rs run CMD"),
        (["run"], 2, "run needs a command"),
        (["rum", "x"], 2, "unknown command 'rum'"),
        (["run", "no-such-command"], 127, "command not found: 'no-such-command'"),
        (["run", "/etc/passwd"], 126, "not an executable file"),
        (["run", "python", "-I", "x.py"], 2, "runs Python with -I"),
        (["run", "python", "-Wd", "-uS", "x.py"], 2, "runs Python with -S"),
    ],
)
def test_commands_that_cannot_be_run(capsys, arguments, status, text):
    assert launcher.main(arguments) == status
    assert text in capsys.readouterr().err


def test_script_whose_first_line_isolates_python(tmp_path, capsys):
    script = tmp_path / "tool"
    script.write_text("#!/usr/bin/env -S python3 -E\n")
    script.chmod(0o755)
    assert launcher.main(["run", str(script)]) == 2
    assert "runs Python with -E" in capsys.readouterr().err


def test_options_of_the_program_are_not_pythons():
    assert launcher._isolating_option(["-u", "script.py", "-I"]) is None
    assert launcher._isolating_option(["-c", "code", "-S"]) is None
    assert launcher._isolating_option(["-W", "error", "-E"]) == "-E"
    assert launcher._isolating_option(["-m", "celery", "-E"]) is None


def test_help(capsys):
    assert launcher.main(["--help"]) == 0
    assert "kombu-rs run celery" in capsys.readouterr().out


def test_register_in_an_installed_kombu(tmp_path):
    package = tmp_path / "kombu"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "transport.py").write_text("TRANSPORT_ALIASES = {}\n")
    status, out, err = python(
        """
        import kombu_rs
        kombu_rs.register()
        kombu_rs.register("fast")
        import kombu.transport
        print(sorted(kombu.transport.TRANSPORT_ALIASES.items()))
        try:
            kombu_rs.register("a.b")
        except ValueError as exc:
            print(exc)
    """,
        path=[tmp_path],
    )
    assert status == 0, err
    alternates = (
        *("amqp", "amqps", "librabbitmq", "memory", "pyamqp"),
        *("redis", "redis+socket", "rediscluster", "redisclusters", "rediss"),
        *("sentinel", "sqla+sqlite"),
    )
    transports = {
        "": "kombu_rs.transport:Transport",
        **{f"+{scheme}": "kombu_rs.transport._alternate:Transport" for scheme in alternates},
    }
    names = [
        (name + scheme, where)
        for name in ("fast", "kombu-rs")
        for scheme, where in transports.items()
    ]
    assert out.splitlines()[0] == str(names)
    assert "got 'a.b'" in out


def test_register_makes_no_sense_for_ourselves():
    status, out, err = python("""
        import kombu_rs
        kombu_rs.install_as_kombu()
        try:
            kombu_rs.register()
        except RuntimeError as exc:
            print(exc)
    """)
    assert (status, "kombu is kombu-rs in this process" in out) == (0, True), err


def test_a_function_is_not_hidden_by_the_module_of_its_name():
    code = (
        "import kombu_rs; kombu_rs.install_as_kombu()\n"
        "import kombu.utils.uuid\n"
        "from kombu.utils import uuid\n"
        "assert callable(uuid), uuid\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
