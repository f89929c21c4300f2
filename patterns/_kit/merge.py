# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Merge two edits of one text, line by line (diff3).

The two edits are each compared with their common base. Base lines that both sides
kept hold the three texts together; what lies between two such anchors was touched
by one side (it wins), by both alike (they agree), or by both differently: a
conflict, written out with all three texts.

Where this merge is clean, `git merge-file` is clean too and gives the same text
(tests/kit/test_merge.py); where git is cleverer, this one asks. They may differ only
where lines repeat so that there are several shortest accounts of one edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

__all__ = ["Merged", "has_markers", "merge", "split_lines"]

_MARKERS = ("<<<<<<< ", "||||||| ", ">>>>>>> ")


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged text and how many conflicts are marked in it."""

    text: str
    conflicts: int


def merge(
    base: str,
    mine: str,
    theirs: str,
    *,
    labels: tuple[str, str, str] = ("yours", "base", "new"),
) -> Merged:
    """Merge `mine` and `theirs`, two edits of `base`.

    >>> merge("a\\nb\\nc\\n", "A\\nb\\nc\\n", "a\\nb\\nC\\n")
    Merged(text='A\\nb\\nC\\n', conflicts=0)
    >>> merge("a\\n", "b\\n", "c\\n").text.split("\\n")[:4]
    ['<<<<<<< yours', 'b', '||||||| base', 'a']
    """
    out: list[str] = []
    conflicts = 0
    for kept, old, ours, new in _chunks(*map(split_lines, (base, mine, theirs))):
        if ours in (new, old):
            out += new
        elif new == old:
            out += ours
        else:
            out += _conflict(old, ours, new, labels)
            conflicts += 1
        out += kept
    return Merged("".join(out), conflicts)


def split_lines(text: str) -> list[str]:
    """Split `text` at newlines only, keeping them (a form feed ends no line).

    >>> split_lines("a\\x0cb\\nc")
    ['a\\x0cb\\n', 'c']
    """
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def has_markers(text: str) -> bool:
    """Tell whether conflict markers are left in `text`."""
    return any(line.startswith(_MARKERS) for line in text.split("\n"))


def _chunks(
    base: list[str], mine: list[str], theirs: list[str]
) -> Iterator[tuple[list[str], list[str], list[str], list[str]]]:
    """Yield (lines all three share, and before them: base's, mine's, theirs')."""
    b = m = t = 0
    for at, in_mine, in_theirs, size in _anchors(base, mine, theirs):
        kept = base[at : at + size]
        yield kept, base[b:at], mine[m:in_mine], theirs[t:in_theirs]
        b, m, t = at + size, in_mine + size, in_theirs + size


def _anchors(
    base: list[str], mine: list[str], theirs: list[str]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield the runs of base lines that both sides kept, then the end of all."""
    left, right = _runs(base, mine), _runs(base, theirs)
    i = j = 0
    while i < len(left) and j < len(right):
        (x, in_mine, x_size), (y, in_theirs, y_size) = left[i], right[j]
        start, end = max(x, y), min(x + x_size, y + y_size)
        if start < end:
            yield start, in_mine + start - x, in_theirs + start - y, end - start
        if x + x_size < y + y_size:
            i += 1
        else:
            j += 1
    yield len(base), len(mine), len(theirs), 0


def _runs(base: list[str], other: list[str]) -> list[tuple[int, int, int]]:
    """Return the runs of equal lines as (start in base, start in other, size).

    Where one of two equal lines was inserted or deleted, nobody can tell which. Like
    git, take it to be the last of them: the run before grows into the run behind.
    """
    matcher = SequenceMatcher(None, base, other, autojunk=False)
    runs: list[tuple[int, int, int]] = [(0, 0, 0)]
    for a, b, size in matcher.get_matching_blocks():
        a0, b0, size0 = runs.pop()
        end, other_end = a0 + size0, b0 + size0
        inserted, deleted = end == a, other_end == b
        while size and inserted != deleted:
            if base[end] != base[a] or other[other_end] != other[b]:
                break
            size0, end, other_end = size0 + 1, end + 1, other_end + 1
            a, b, size = a + 1, b + 1, size - 1
        runs.append((a0, b0, size0))
        if size or a == len(base):
            runs.append((a, b, size))
    return runs


def _conflict(
    old: Sequence[str],
    ours: Sequence[str],
    new: Sequence[str],
    labels: tuple[str, str, str],
) -> Iterator[str]:
    """Yield the three texts between markers, each ended by a newline."""
    yours, base, theirs = labels
    for marker, lines in (
        (f"<<<<<<< {yours}\n", ours),
        (f"||||||| {base}\n", old),
        ("=======\n", new),
    ):
        yield marker
        yield from (line if line.endswith("\n") else line + "\n" for line in lines)
    yield f">>>>>>> {theirs}\n"
