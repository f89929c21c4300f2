"""The history of released texts: what is recorded, sealed and never changed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from patterns._kit import history
from patterns._kit.catalogue import PACKAGE
from patterns._kit.copier import Kit
from patterns._kit.header import Header, digest
from patterns._kit.merge import has_markers

TODAY = date(2026, 11, 23)
FILE = PACKAGE / "_kit" / "history.jsonl"


def lines(kit: Any) -> list[dict[str, Any]]:
    """Return the rows of a kit's history."""
    text = (kit.package / "_kit/history.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


# our own history


def test_every_current_text_is_recorded() -> None:
    """What the tree ships is in the history."""
    assert history.record(write=False) == [], "python -m patterns._kit.history record"


def test_each_row_is_true() -> None:
    """A row's hash is the hash of its text, no text is recorded twice."""
    rows = list(history.rows())
    for row in rows:
        if row.text is None:
            assert row.name.startswith("vectors/")
        else:
            assert row.sha256 == digest(row.text)
            assert not has_markers(row.text)
    keys = [row.sha256 for row in rows]
    assert len(keys) == len(set(keys))


def test_rows_below_the_last_seal_belong_to_this_version() -> None:
    """Only the release in the making is open, and it is the one in pyproject.toml."""
    rows = [json.loads(line) for line in FILE.read_text("utf-8").split("\n") if line]
    seals = [number for number, row in enumerate(rows) if "sealed" in row]
    last = max(seals, default=-1)
    assert {row["version"] for row in rows[last + 1 :]} <= {history.version()}


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_sealed_rows_are_append_only() -> None:
    """What the last commit had sealed stands at the head of the file, unchanged."""
    shown = subprocess.run(
        ["git", "show", "HEAD:patterns/_kit/history.jsonl"],
        cwd=PACKAGE.parent,
        capture_output=True,
        check=False,
    )
    if shown.returncode:
        pytest.skip("no commit has a history yet")
    before = [line for line in shown.stdout.decode().split("\n") if line]
    sealed = [number for number, line in enumerate(before) if '"sealed": ' in line]
    kept = before[: max(sealed, default=-1) + 1]
    assert FILE.read_text("utf-8").split("\n")[: len(kept)] == kept


def test_an_untouched_copy_of_every_released_text_updates_to_the_current_one(
    tmp_path: Path,
) -> None:
    """From every released text of a pattern that is still here, update is clean."""
    kit = Kit()
    recorded = [row for row in history.rows() if row.text and row.name in kit.shipped]
    assert {row.name for row in recorded} == set(kit.shipped)
    for row in recorded:
        path = tmp_path / "copy.py"
        header = Header("api-integration-patterns", row.version, row.name, row.sha256)
        path.write_text(f"{header}\n{row.text}", "utf-8")
        report = kit.report(path)
        assert report.state in ("pristine", "outdated")
        assert report.edited is False
        assert report.new == kit.text(row.name)


# the rule, on a small kit


def test_record_writes_patterns_tests_and_vector_hashes(kit: Any) -> None:
    """A row for each text, sorted by name; of a vector file only the hash."""
    assert history.record(kit.package) == [
        "paging/test_walker",
        "paging/token",
        "paging/walker",
        "vectors/statuses.json",
    ]
    rows = lines(kit)
    assert [row["name"] for row in rows] == [
        "paging/test_walker",
        "paging/token",
        "paging/walker",
        "vectors/statuses.json",
    ]
    assert "text" not in rows[-1]
    assert all(row["version"] == "0.1.0" for row in rows)


def test_the_release_in_the_making_is_replaced_not_appended(kit: Any) -> None:
    """Ten commits before a release leave one row a text."""
    history.record(kit.package)
    for number in range(10):
        kit.edit("patterns/paging/token.py", '"""', f'""" {number}')
        assert history.record(kit.package) == ["paging/token"]
    assert len(lines(kit)) == 4


def test_sealed_rows_stay_and_only_changes_are_added(kit: Any) -> None:
    """After a release a changed text gets a row and an unchanged one does not."""
    kit.release("0.2.0")
    before = lines(kit)
    assert before[-1] == {"version": "0.1.0", "sealed": "2026-11-23"}
    kit.edit("patterns/paging/token.py", "Name a place", "Name places")
    assert history.record(kit.package) == ["paging/token"]
    rows = lines(kit)
    assert rows[: len(before)] == before
    [added] = rows[len(before) :]
    assert (added["name"], added["version"]) == ("paging/token", "0.2.0")


def test_a_text_that_is_taken_back_leaves_no_row(kit: Any) -> None:
    """An open row whose text is gone before the release goes with it."""
    kit.release("0.2.0")
    kit.edit("patterns/paging/token.py", "Name a place", "Name places")
    history.record(kit.package)
    kit.edit("patterns/paging/token.py", "Name places", "Name a place")
    assert history.record(kit.package) == ["paging/token"]
    assert len(lines(kit)) == 5


def test_a_released_version_takes_no_new_text(kit: Any) -> None:
    """After a seal the version in pyproject.toml must rise before recording."""
    kit.release()
    assert history.record(kit.package) == []
    kit.edit("patterns/paging/token.py", "Name a place", "Name places")
    with pytest.raises(ValueError, match=r"0\.1\.0 is released, and paging/token"):
        history.record(kit.package)


def test_seal_refuses_what_is_not_recorded(kit: Any) -> None:
    """A release cannot forget a text, nor be sealed twice."""
    with pytest.raises(ValueError, match="not recorded: paging/test_walker"):
        history.seal(kit.package, today=TODAY)
    history.record(kit.package)
    history.seal(kit.package, today=TODAY)
    with pytest.raises(ValueError, match="sealed already"):
        history.seal(kit.package, today=TODAY)


def test_text_that_looks_like_a_row_is_not_found(kit: Any) -> None:
    """A hash written inside a pattern's text is not taken for a row's own."""
    kit.edit("patterns/paging/token.py", "Name a place", 'See "sha256": "' + "0" * 16)
    history.record(kit.package)
    assert history.find("0" * 16, kit.package) is None


def test_texts_with_odd_line_ends_survive(kit: Any) -> None:
    """A line separator inside a text does not break its row in two."""
    kit.edit("patterns/paging/token.py", "Name a place", "Name\u2028a\x85place")
    history.record(kit.package)
    text = (kit.package / "paging/token.py").read_text("utf-8")
    row = history.find(digest(text), kit.package)
    assert row is not None
    assert row.text == text


def test_the_command(kit: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """record, check and seal report what they did and exit accordingly."""

    def main(*argv: str) -> tuple[int, str]:
        status = history.main([*argv], kit.package)
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    names = "paging/test_walker, paging/token, paging/walker, vectors/statuses.json"
    assert main("check") == (1, f"to record: {names}\n")
    assert main("seal")[0] == 1
    assert main("record") == (0, f"recorded: {names}\n")
    assert main("check") == (0, "to record: nothing\n")
    assert main("seal") == (0, "sealed: 0.1.0\n")
    assert main("nope")[0] == 2


def test_version_of_a_clone_is_that_of_its_pyproject(
    kit: Any, run: Callable[..., Any], tmp_path: Path
) -> None:
    """In a clone pyproject.toml says the version; elsewhere the installed wheel."""
    kit.version("7.8.9")
    assert history.version(kit.package) == "7.8.9"
    assert history.version(tmp_path / "patterns") == history.version(PACKAGE)
