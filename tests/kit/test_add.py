"""`patterns add`: what is written, what is refused, and where tests import from."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patterns._kit.header import Header, digest

Run = Callable[..., Any]


def body(path: Path) -> str:
    """Return a copy's text below its header."""
    return path.read_text("utf-8").partition("\n")[2]


def test_a_copy_is_the_shipped_text_below_one_line(
    run: Run, kit: Any, project: Path
) -> None:
    """The copy is byte-identical but for the header, which names and hashes it."""
    ran = run("add", "paging/walker", "--to", "src/acme/integrations")
    assert ran.status == 0
    assert "create     src/acme/integrations/walker.py" in ran.out
    assert "needs: httpx>=0.28.1" in ran.out
    copy = project / "src/acme/integrations/walker.py"
    shipped = (kit.package / "paging/walker.py").read_text("utf-8")
    assert body(copy) == shipped
    assert Header.parse(copy.read_text("utf-8").partition("\n")[0]) == Header(
        "api-integration-patterns", "0.1.0", "paging/walker", digest(shipped)
    )


def test_a_folder_stands_for_all_its_patterns(run: Run, project: Path) -> None:
    """`add paging` copies each file of the folder, each once."""
    assert run("add", "paging", "paging/walker", "--to", "lib").status == 0
    assert sorted(p.name for p in (project / "lib").iterdir()) == [
        "token.py",
        "walker.py",
    ]


def test_json_tells_the_files_and_the_packages(run: Run) -> None:
    """One object says what was done and what the copies and their tests need."""
    found = run("add", "paging", "--to", "lib", "--json").json
    assert found == {
        "schema": 1,
        "command": "add",
        "dry_run": False,
        "files": [
            {
                "path": "lib/token.py",
                "action": "create",
                "name": "paging/token",
                "detail": "",
            },
            {
                "path": "lib/walker.py",
                "action": "create",
                "name": "paging/walker",
                "detail": "",
            },
        ],
        "requires": ["httpx>=0.28.1"],
        "test_requires": [],
    }


def test_dry_run_writes_nothing(run: Run, project: Path) -> None:
    """The plan is shown and the project stays as it was, folders included."""
    ran = run("add", "paging", "--to", "lib", "--dry-run")
    assert ran.status == 0
    assert "create     lib/walker.py" in ran.out
    assert not (project / "lib").exists()


def test_a_second_add_changes_nothing(run: Run, project: Path) -> None:
    """An identical copy is left alone, its time stamp included."""
    run("add", "paging", "--to", "lib")
    before = (project / "lib/walker.py").stat().st_mtime_ns
    ran = run("add", "paging", "--to", "lib")
    assert ran.status == 0
    assert "unchanged  lib/walker.py" in ran.out
    assert (project / "lib/walker.py").stat().st_mtime_ns == before


def test_an_unedited_older_copy_is_replaced(run: Run, kit: Any, project: Path) -> None:
    """Nothing of the user's is lost, so `add` brings it up to date."""
    run("add", "paging/walker", "--to", "lib")
    kit.release_with("split()[-1]", "rsplit()[-1]")
    ran = run("add", "paging/walker", "--to", "lib")
    assert "update     lib/walker.py  (from 0.1.0)" in ran.out
    assert "rsplit" in (project / "lib/walker.py").read_text("utf-8")
    assert run("status").out.startswith("pristine")


def test_an_edited_copy_is_refused_and_nothing_is_written(
    run: Run, project: Path
) -> None:
    """One refused file stops the whole plan, also the files that could be made."""
    run("add", "paging/walker", "--to", "lib")
    copy = project / "lib/walker.py"
    copy.write_text(copy.read_text("utf-8") + "# mine\n", "utf-8")
    ran = run("add", "paging", "--to", "lib")
    assert ran.status == 1
    assert "refused    lib/walker.py  (has your edits" in ran.err
    assert "nothing was written" in ran.err
    assert copy.read_text("utf-8").endswith("# mine\n")
    assert not (project / "lib/token.py").exists()


def test_a_foreign_file_is_refused(run: Run, project: Path) -> None:
    """A file that is no copy is never overwritten."""
    (project / "walker.py").write_text("print()\n", "utf-8")
    ran = run("add", "paging", "--to", ".")
    assert ran.status == 1
    assert "no copy of a pattern" in ran.err
    assert (project / "walker.py").read_text("utf-8") == "print()\n"
    assert not (project / "token.py").exists()


def test_a_copy_of_another_pattern_is_refused(
    run: Run, kit: Any, project: Path
) -> None:
    """Two patterns of one file name do not replace one another."""
    kit.write("patterns/errors/walker.py", '"""Fail."""\n\n__all__ = ["x"]\n')
    run("add", "errors/walker", "--to", "lib")
    ran = run("add", "paging/walker", "--to", "lib")
    assert ran.status == 1
    assert "is a copy of errors/walker" in ran.err
    ran = run("add", "paging", "errors", "--to", "other")
    assert ran.status == 1
    assert "would hold both" in ran.err
    assert not (project / "other").exists()


def test_an_unmerged_copy_is_refused(run: Run, project: Path) -> None:
    """A file with conflict markers waits for its owner."""
    run("add", "paging/walker", "--to", "lib")
    copy = project / "lib/walker.py"
    copy.write_text(copy.read_text("utf-8") + "<<<<<<< yours\n", "utf-8")
    ran = run("add", "paging/walker", "--to", "lib")
    assert ran.status == 1
    assert "conflict markers are left" in ran.err


def test_a_link_is_refused(run: Run, project: Path) -> None:
    """A link is neither followed nor replaced."""
    (project / "lib").mkdir()
    (project / "lib/walker.py").symlink_to(project / "elsewhere.py")
    ran = run("add", "paging/walker", "--to", "lib")
    assert ran.status == 1
    assert "a symbolic link" in ran.err
    assert not (project / "elsewhere.py").exists()


def test_a_file_that_is_not_utf8_is_refused(run: Run, project: Path) -> None:
    """Bytes that are no text are left alone."""
    (project / "lib").mkdir()
    (project / "lib/walker.py").write_bytes(b"# caf\xe9\n")
    ran = run("add", "paging/walker", "--to", "lib")
    assert ran.status == 1
    assert "not UTF-8 (byte 5)" in ran.err


def test_a_folder_that_is_a_file_is_refused(run: Run, project: Path) -> None:
    """A destination below a file cannot be made."""
    (project / "lib").write_text("", "utf-8")
    ran = run("add", "paging/walker", "--to", "lib/sub")
    assert ran.status == 1
    assert "lib is not a folder" in ran.err


@pytest.mark.parametrize(
    "to", ["patterns", "src/patterns", "patterns/http", "src/x/.."]
)
def test_top_level_patterns_is_refused(run: Run, project: Path, to: str) -> None:
    """A folder imported as `patterns` would clash with the installed package."""
    if to.endswith(".."):
        to += "/patterns"
        (project / "src/x").mkdir(parents=True)
    ran = run("add", "paging", "--to", to)
    assert ran.status == 1
    assert "in the way of the installed package" in ran.err
    assert "--to src/acme/integrations" in ran.err
    assert not list(project.rglob("walker.py"))


def test_the_tests_folder_is_held_to_the_same_rule(run: Run) -> None:
    """Tests in a top-level `patterns` would hide the package just the same."""
    ran = run("add", "paging/walker", "--to", "lib", "--tests", "patterns")
    assert ran.status == 1


@pytest.mark.parametrize(
    "to", ["src/acme/patterns", "acme/patterns", "patterns_of_ours"]
)
def test_a_folder_patterns_inside_a_package_is_fine(run: Run, to: str) -> None:
    """Only the top-level name clashes."""
    assert run("add", "paging", "--to", to).status == 0


def test_a_patterns_package_at_the_end_of_a_chain_is_refused(
    run: Run, project: Path
) -> None:
    """A regular package whose parent is none is top level, wherever it lies."""
    (project / "backend/patterns").mkdir(parents=True)
    (project / "backend/patterns/__init__.py").write_text("", "utf-8")
    assert run("add", "paging", "--to", "backend/patterns").status == 1


def test_httpx2_rewrites_the_import_and_the_dependency(
    run: Run, kit: Any, project: Path
) -> None:
    """Two lines differ from the shipped text, and the copy counts as pristine."""
    ran = run("add", "paging", "--to", "lib", "--http", "httpx2")
    assert "needs: httpx2>=2.16" in ran.out
    shipped = (kit.package / "paging/walker.py").read_text("utf-8").splitlines()
    copied = body(project / "lib/walker.py").splitlines()
    assert [
        pair for pair in zip(shipped, copied, strict=True) if pair[0] != pair[1]
    ] == [
        ('# dependencies = ["httpx>=0.28.1"]', '# dependencies = ["httpx2>=2.16"]'),
        ("import httpx", "import httpx2 as httpx"),
    ]
    token = (kit.package / "paging/token.py").read_text("utf-8")
    assert body(project / "lib/token.py") == token
    files = run("status", "--json").json["files"]
    assert [(f["state"], f["http"]) for f in files] == [
        ("pristine", None),
        ("pristine", "httpx2"),
    ]


def test_add_keeps_a_copy_on_its_httpx_until_told_otherwise(
    run: Run, project: Path
) -> None:
    """Without --http a copy stays on httpx2; with it an unedited copy is switched."""
    run("add", "paging/walker", "--to", "lib", "--http", "httpx2")
    again = run("add", "paging/walker", "--to", "lib")
    assert "unchanged" in again.out
    assert "needs: httpx2>=2.16" in again.out
    assert "update" in run("add", "paging/walker", "--to", "lib", "--http", "httpx").out
    assert "import httpx\n" in (project / "lib/walker.py").read_text("utf-8")


def test_newlines_and_mode_of_a_replaced_copy_are_kept(
    run: Run, kit: Any, project: Path
) -> None:
    """A copy with CRLF and an executable bit has both after it is replaced."""
    run("add", "paging/walker", "--to", "lib")
    copy = project / "lib/walker.py"
    copy.write_bytes(copy.read_bytes().replace(b"\n", b"\r\n"))
    copy.chmod(0o750)
    assert "unchanged" in run("add", "paging/walker", "--to", "lib").out
    kit.release_with("split()[-1]", "rsplit()[-1]")
    assert run("add", "paging/walker", "--to", "lib").status == 0
    raw = copy.read_bytes()
    assert b"rsplit" in raw
    assert raw.count(b"\r\n") == raw.count(b"\n")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o750


def test_a_new_file_has_the_mode_of_any_new_file(run: Run, project: Path) -> None:
    """The temporary file's narrow mode does not stick."""
    (project / "plain").write_text("", "utf-8")
    run("add", "paging/walker", "--to", "lib")
    plain = stat.S_IMODE((project / "plain").stat().st_mode)
    assert stat.S_IMODE((project / "lib/walker.py").stat().st_mode) == plain


def test_tests_come_with_their_vectors_and_one_line_changed(
    run: Run, kit: Any, project: Path
) -> None:
    """The test, its header, its vectors; only the import of the module differs."""
    ran = run("add", "paging/walker", "--to", "src/acme/net", "--tests", "tests")
    assert ran.status == 0
    assert "the tests need: httpx, pytest" in ran.out
    shipped = (kit.root / "tests/paging/test_walker.py").read_text("utf-8")
    assert body(project / "tests/test_walker.py") == shipped.replace(
        "from patterns.paging import walker", "from acme.net import walker"
    )
    vectors = project / "tests/vectors/statuses.json"
    assert vectors.read_text("utf-8") == "[200, 404]\n"
    states = {f["name"]: f["state"] for f in run("status", "--json").json["files"]}
    assert states == {"paging/walker": "pristine", "paging/test_walker": "pristine"}


def test_tests_follow_the_module_to_another_place(run: Run, project: Path) -> None:
    """An unedited copied test is refitted when its module moves."""
    run("add", "paging/walker", "--to", "lib", "--tests", "tests")
    run("add", "paging/walker", "--to", "acme/net", "--tests", "tests")
    text = (project / "tests/test_walker.py").read_text("utf-8")
    assert "\nfrom acme.net import walker\n" in text


def test_a_pattern_without_a_test_is_refused(run: Run, project: Path) -> None:
    """Asked for tests, `add` does not quietly leave one out."""
    ran = run("add", "paging", "--to", "lib", "--tests", "tests")
    assert ran.status == 1
    assert "paging/token ships no test" in ran.err
    assert not (project / "lib").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from patterns.paging import walker", "import walker"),
        ("import json", "import json\nfrom patterns.paging import token"),
        ("import json", "import json\nimport patterns"),
    ],
)
def test_a_test_that_cannot_be_refitted_is_refused(
    run: Run, kit: Any, project: Path, old: str, new: str
) -> None:
    """None or two lines that import from `patterns` stop the plan."""
    kit.edit("tests/paging/test_walker.py", old, new)
    ran = run("add", "paging/walker", "--to", "lib", "--tests", "tests")
    assert ran.status == 1
    assert "in exactly one line" in ran.err
    assert not (project / "lib").exists()


def test_a_foreign_vector_file_is_refused(run: Run, project: Path) -> None:
    """Vectors are data of somebody's, unless a release had them."""
    (project / "tests/vectors").mkdir(parents=True)
    (project / "tests/vectors/statuses.json").write_text("[1]", "utf-8")
    ran = run("add", "paging/walker", "--to", "lib", "--tests", "tests")
    assert ran.status == 1
    assert "no released vector file" in ran.err
    assert not (project / "lib").exists()


def test_released_vectors_are_replaced(run: Run, kit: Any, project: Path) -> None:
    """An unedited older vector file gives way to the new one."""
    run("add", "paging/walker", "--to", "lib", "--tests", "tests")
    kit.release("0.2.0")
    kit.write("tests/vectors/statuses.json", "[200]\n")
    ran = run("add", "paging/walker", "--to", "lib", "--tests", "tests")
    assert "update     tests/vectors/statuses.json" in ran.out
    assert (project / "tests/vectors/statuses.json").read_text("utf-8") == "[200]\n"


def test_a_hand_copied_file_is_unchanged(run: Run, kit: Any, project: Path) -> None:
    """The same text without the line is not rewritten: its owner has opted out."""
    shipped = (kit.package / "paging/walker.py").read_text("utf-8")
    (project / "walker.py").write_text(shipped, "utf-8")
    ran = run("add", "paging/walker", "--to", ".")
    assert ran.status == 0
    assert "unchanged  walker.py  (without its line" in ran.out
    assert (project / "walker.py").read_text("utf-8") == shipped


def test_a_vector_file_that_is_a_link_is_refused(run: Run, project: Path) -> None:
    """Links are left alone among the vectors too."""
    (project / "tests/vectors").mkdir(parents=True)
    (project / "tests/vectors/statuses.json").symlink_to(project / "elsewhere")
    ran = run("add", "paging/walker", "--to", "lib", "--tests", "tests")
    assert ran.status == 1
    assert "tests/vectors/statuses.json  (a symbolic link" in ran.err


def test_a_system_that_refuses_to_write(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is reported with exit status 1, and nothing is left behind."""
    run("add", "paging/token", "--to", "lib")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    ran = run("add", "paging/walker", "--to", "lib")
    assert ran.status == 1
    assert "disk full; every file is as it was" in ran.err
    assert [path.name for path in (project / "lib").iterdir()] == ["token.py"]
