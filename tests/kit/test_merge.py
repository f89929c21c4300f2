"""The three-way merge, held against git's own."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patterns._kit.catalogue import Pattern, catalogue
from patterns._kit.merge import has_markers, merge, split_lines

LINES = st.lists(st.sampled_from(["a", "b", "c", "d", "", "    x", "é"]), max_size=12)
BASES = st.lists(st.integers(0, 99), unique=True, min_size=3, max_size=25)
KINDS = ["insert", "delete", "replace"]
EDIT = st.tuples(st.sampled_from(KINDS), st.integers(0, 1000), st.integers(1, 3))
DOUBLE = st.tuples(st.just("double"), st.integers(0, 1000), st.integers(1, 3))
# A block is doubled only in a text that is not edited otherwise: else there may be
# several shortest accounts of what was done, and two honest merges choose differently.
EDITS = st.lists(EDIT, max_size=5) | st.lists(DOUBLE, max_size=1)


def text(lines: list[str]) -> str:
    """Join lines, each with its newline."""
    return "".join(f"{line}\n" for line in lines)


def edited(base: list[str], edits: list[tuple[str, int, int]], who: str) -> list[str]:
    """Apply edits; a new line says who wrote it, so that its origin can be seen."""
    lines = list(base)
    for number, (kind, where, size) in enumerate(edits):
        at = where % (len(lines) + 1)
        fresh = [f"{who} {number} {row}" for row in range(size)]
        if kind == "insert":
            lines[at:at] = fresh
        elif kind == "delete":
            del lines[at : at + size]
        elif kind == "replace":
            lines[at : at + size] = fresh
        else:
            lines[at:at] = lines[at : at + size]
    return lines


def git_merge(folder: Path, base: str, mine: str, theirs: str) -> tuple[str, int]:
    """Merge with `git merge-file`; return the text and the number of conflicts."""
    for name, content in (("mine", mine), ("base", base), ("new", theirs)):
        (folder / name).write_bytes(content.encode())
    ran = subprocess.run(
        ["git", "merge-file", "-p", "--diff3", "mine", "base", "new"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert 0 <= ran.returncode < 128, ran.stderr
    return ran.stdout.decode(), ran.returncode


@given(LINES, LINES)
def test_without_local_edits_the_merge_is_the_new_text(
    base: list[str], new: list[str]
) -> None:
    """An untouched copy fast-forwards."""
    merged = merge(text(base), text(base), text(new))
    assert (merged.text, merged.conflicts) == (text(new), 0)


@given(LINES, LINES)
def test_without_upstream_change_the_merge_is_mine(
    base: list[str], mine: list[str]
) -> None:
    """Nothing new leaves a copy as it is."""
    merged = merge(text(base), text(mine), text(base))
    assert (merged.text, merged.conflicts) == (text(mine), 0)


@given(LINES, LINES)
def test_the_same_change_twice_is_no_conflict(base: list[str], both: list[str]) -> None:
    """Two sides that agree are merged."""
    merged = merge(text(base), text(both), text(both))
    assert (merged.text, merged.conflicts) == (text(both), 0)


@given(BASES, EDITS, EDITS)
def test_no_line_that_either_side_wrote_is_lost(
    numbers: list[int],
    left: list[tuple[str, int, int]],
    right: list[tuple[str, int, int]],
) -> None:
    """Each new line of both sides is in the result, in a conflict or outside."""
    base = [f"line {number}" for number in numbers]
    mine, theirs = edited(base, left, "mine"), edited(base, right, "theirs")
    merged = merge(text(base), text(mine), text(theirs))
    lines = merged.text.split("\n")
    assert {line for line in mine if line.startswith("mine ")} <= set(lines)
    assert {line for line in theirs if line.startswith("theirs ")} <= set(lines)
    assert lines.count("<<<<<<< yours") == merged.conflicts
    assert has_markers(merged.text) is bool(merged.conflicts)


@given(BASES, EDITS, EDITS, st.booleans(), st.booleans())
def test_conflicts_resolved_to_one_side_give_a_text_of_that_side(
    numbers: list[int],
    left: list[tuple[str, int, int]],
    right: list[tuple[str, int, int]],
    own_newline: bool,
    new_newline: bool,
) -> None:
    """Taking `new` everywhere and the other way round loses no chunk in between."""
    base = [f"line {number}" for number in numbers]
    mine = text(edited(base, left, "mine"))
    theirs = text(edited(base, right, "theirs"))
    mine = mine if own_newline else mine[:-1]
    theirs = theirs if new_newline else theirs[:-1]
    one = merge(text(base), mine, theirs)
    other = merge(text(base), theirs, mine)
    assert one.conflicts == other.conflicts
    assert resolve(one.text, "yours") == resolve(other.text, "new")
    assert resolve(one.text, "new") == resolve(other.text, "yours")


def resolve(merged: str, side: str) -> str:
    """Take one side of each conflict."""
    out, now = [], "both"
    for line in merged.split("\n"):
        if line.startswith("<<<<<<< "):
            now = "yours"
        elif line.startswith("||||||| "):
            now = "base"
        elif line == "=======" and now == "base":
            now = "new"
        elif line.startswith(">>>>>>> "):
            now = "both"
        elif now in ("both", side):
            out.append(line)
    return "\n".join(out).rstrip("\n")


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
@settings(max_examples=150, deadline=None)
@given(BASES, EDITS, EDITS, st.booleans())
def test_where_ours_is_clean_git_is_clean_with_the_same_text(
    tmp_path_factory: pytest.TempPathFactory,
    numbers: list[int],
    left: list[tuple[str, int, int]],
    right: list[tuple[str, int, int]],
    newline: bool,
) -> None:
    """Our merge never settles what git would ask about, and settles it alike."""
    base = [f"line {number}" for number in numbers]
    mine = text(edited(base, left, "mine"))
    theirs = text(edited(base, right, "theirs"))
    if not newline:
        mine = mine[:-1]
    folder = tmp_path_factory.getbasetemp()
    merged = merge(text(base), mine, theirs)
    if not merged.conflicts:
        assert git_merge(folder, text(base), mine, theirs) == (merged.text, 0)


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
@pytest.mark.parametrize("pattern", catalogue(), ids=lambda pattern: pattern.name)
def test_real_files_merge_as_git_merges_them(pattern: Pattern, tmp_path: Path) -> None:
    """On the patterns themselves, with their repeated lines, the same holds."""
    base = pattern.text.split("\n")[:-1]
    clean = 0
    for seed in range(60):
        rng = random.Random(seed)
        left, right = (
            [
                (rng.choice(KINDS), rng.randrange(10_000), rng.randint(1, 3))
                for _ in range(rng.randint(1, 4))
            ]
            for _ in range(2)
        )
        mine, theirs = text(edited(base, left, "m")), text(edited(base, right, "t"))
        merged = merge(pattern.text, mine, theirs)
        if not merged.conflicts:
            clean += 1
            assert git_merge(tmp_path, pattern.text, mine, theirs) == (merged.text, 0)
    assert clean > 30


def test_a_conflict_at_the_end_of_a_file_without_newline() -> None:
    """Markers stand on lines of their own, whatever the last line lacks."""
    assert merge("a", "b", "c").text == (
        "<<<<<<< yours\nb\n||||||| base\na\n=======\nc\n>>>>>>> new\n"
    )


def test_adjacent_edits_conflict() -> None:
    """Two edits with no common line between them are for a person to judge."""
    assert merge("a\nb\n", "A\nb\n", "a\nB\n").conflicts == 1


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("<<<<<<< yours", True),
        ("||||||| base 0.1.0", True),
        (">>>>>>> new", True),
        ("=======", False),
        ("    <<<<<<< yours", False),
        ("<<<<<<<<<", False),
    ],
)
def test_markers(line: str, left: bool) -> None:
    """A marker starts its line; a row of equal signs alone may be an underline."""
    assert has_markers(f"x\n{line}\ny\n") is left


@given(st.text())
def test_split_lines_loses_nothing(any_text: str) -> None:
    """The lines joined are the text, and only newlines end a line."""
    lines = split_lines(any_text)
    assert "".join(lines) == any_text
    assert all("\n" not in line[:-1] for line in lines)
