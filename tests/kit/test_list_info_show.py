"""`patterns list`, `info`, `show`, `--version`, and the way to other verbs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patterns._kit import cli
from patterns._kit.catalogue import catalogue

Run = Callable[..., Any]


def test_list_prints_a_line_for_each_pattern(run: Run) -> None:
    """A pattern's line is its name and its promise."""
    ran = run("list")
    assert ran.status == 0
    assert ran.out.splitlines() == [
        "paging/token   Name a place.",
        "paging/walker  Walk to the end.",
    ]


def test_list_json_is_one_object_on_standard_output(run: Run) -> None:
    """With --json standard output has the object and nothing else."""
    ran = run("list", "--json")
    assert ran.json == {
        "schema": 1,
        "command": "list",
        "patterns": [
            {"name": "paging/token", "promise": "Name a place.", "requires": []},
            {
                "name": "paging/walker",
                "promise": "Walk to the end.",
                "requires": ["httpx>=0.28.1"],
            },
        ],
    }
    assert "Walk to the end." in ran.err


def test_info_is_read_from_the_file(run: Run, kit: Any) -> None:
    """Exports, packages, test and vectors come from the files themselves."""
    card = run("info", "paging/walker", "--json").json["pattern"]
    assert card["exports"] == ["walk"]
    assert card["requires"] == ["httpx>=0.28.1"]
    assert card["module"] == "patterns.paging.walker"
    assert card["vectors"] == ["statuses.json"]
    assert card["test"] == str(kit.root / "tests/paging/test_walker.py")
    assert "exports  walk" in run("info", "paging/walker").out


def test_show_prints_the_source_as_it_is(run: Run, kit: Any) -> None:
    """What `show` prints can be piped into a file, and is the file."""
    source = (kit.package / "paging/walker.py").read_text("utf-8")
    assert run("show", "paging/walker").out == source
    assert run("show", "paging/walker", "--json").json["pattern"]["text"] == source


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("walker", "did you mean paging/walker?"),
        ("walker.py", "did you mean paging/walker?"),
        ("paging/wlaker", "did you mean paging/walker"),
        ("zzz", "`patterns list` has them all"),
    ],
)
def test_a_name_that_does_not_exist_is_a_usage_error(
    run: Run, name: str, hint: str
) -> None:
    """The exit status is 2, and the nearest name is suggested."""
    for argv in (["info", name], ["show", name], ["add", name, "--to", "x"]):
        ran = run(*argv)
        assert ran.status == 2
        assert hint in ran.err
        assert ran.out == ""


@pytest.mark.parametrize("command", ["info", "show"])
def test_a_folder_is_not_one_pattern(run: Run, command: str) -> None:
    """Where one pattern is wanted, a folder's are named."""
    ran = run(command, "paging")
    assert ran.status == 2
    assert "'paging' is a folder: name one of paging/" in ran.err


@pytest.mark.parametrize(
    "argv", [[], ["nope"], ["add", "paging"], ["info"], ["list", "--nope"], ["diff"]]
)
def test_usage_errors_exit_with_2(run: Run, argv: list[str]) -> None:
    """A command line that cannot be understood says so on standard error."""
    ran = run(*argv)
    assert ran.status == 2
    assert "usage: patterns" in ran.err


@pytest.mark.parametrize("verb", ["status", "diff", "update", "adopt"])
def test_a_path_that_does_not_exist_is_not_passed_over(run: Run, verb: str) -> None:
    """A mistyped file is never silently in order."""
    ran = run(verb, "gone.py")
    assert ran.status != 0
    assert "gone.py" in ran.err


def test_version(run: Run) -> None:
    """The version is that of the kit."""
    assert run("--version").out == "patterns 0.1.0\n"


def test_garden_gets_the_rest_of_the_command_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`patterns garden check --x` calls the garden's main with check and --x."""
    seen: list[list[str]] = []

    class Garden:
        @staticmethod
        def main(argv: list[str]) -> int:
            seen.append(argv)
            return 1

    monkeypatch.setitem(sys.modules, "patterns._kit.garden", Garden)
    assert run("garden", "check", "--json").status == 1
    assert seen == [["check", "--json"]]


def test_garden_says_which_dependency_group_it_needs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its packages the verb exits 2 and names what is missing and where."""
    monkeypatch.setitem(
        cli._DELEGATES, "garden", ("a_package_that_is_missing", "site", "")
    )
    ran = run("garden", "check")
    assert ran.status == 2
    assert "a_package_that_is_missing is not installed" in ran.err
    assert "uv sync --group site" in ran.err


@pytest.mark.parametrize("argv", [["list"], ["--help"]])
def test_start_up_loads_nothing_heavy(argv: list[str]) -> None:
    """Listing and help load argparse and little else: no parser, no merge."""
    code = (
        "import sys; from patterns._kit.cli import main\n"
        f"try: main({argv!r})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(catalogue()[0].path.parents[2])},
    )
    heavy = {"ast", "dataclasses", "difflib", "inspect", "json", "tomllib", "typing"}
    heavy |= {"httpx", "importlib.metadata", "lzma", "pathlib", "shutil", "socket"}
    assert heavy.isdisjoint(ran.stderr.split())


def test_no_command_opens_a_socket(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command works with no network at all."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    for argv in (
        ["list"],
        ["info", "paging/walker"],
        ["show", "paging/walker"],
        ["add", "paging/walker", "--to", "lib", "--tests", "tests"],
        ["status"],
        ["diff", "lib/walker.py"],
        ["update", "lib/walker.py"],
        ["adopt", "lib/walker.py"],
    ):
        assert run(*argv).status == 0


@pytest.fixture
def other_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another distribution on the path that installs a package `patterns`."""
    info = tmp_path / "site" / "patterns_devkit-1.7.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: patterns-devkit\nVersion: 1.7.0\n", "utf-8")
    (info / "RECORD").write_text("x/y.py,,\npatterns/__init__.py,,\n", "utf-8")
    monkeypatch.syspath_prepend(str(info.parent))


def test_another_owner_of_the_name_is_warned_of(run: Run, other_owner: None) -> None:
    """Commands that touch copies say which other package has the name `patterns`."""
    for argv in (["status"], ["add", "paging", "--to", "lib", "--json"]):
        ran = run(*argv)
        assert ran.status == 0
        assert "warning: patterns-devkit also installs a package `patterns`" in ran.err
        assert "patterns-devkit" not in ran.out


def test_alone_there_is_no_warning(run: Run) -> None:
    """The kit is not warned of itself."""
    assert run("status").err == ""


def test_a_closed_pipe_is_no_error(kit: Any) -> None:
    """`patterns show … | head -1` ends quietly."""
    code = f"from patterns._kit.cli import main; raise SystemExit(main({['list']!r}))"
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")
