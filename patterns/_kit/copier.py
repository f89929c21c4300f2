# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Copy patterns into a project, know the copies again, and bring them up to date.

Everything here plans: it reads files and returns what is to be done. Only
`writer.write_all` writes, and only when no part of the plan is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from patterns._kit import history
from patterns._kit.catalogue import PACKAGE, Pattern, catalogue
from patterns._kit.header import (
    DISTRIBUTION,
    Fit,
    Header,
    Refusal,
    check_import,
    digest,
)
from patterns._kit.merge import has_markers, merge
from patterns._kit.places import check_destination, import_line
from patterns._kit.writer import Write

__all__ = ["Change", "Copy", "Kit", "Report", "read_copy", "scan"]

_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Copy:
    """A file as found: its bytes, and its text taken apart."""

    path: Path
    raw: bytes
    header: Header | None
    body: str

    def render(self, header: Header, body: str) -> bytes:
        """Return the bytes of a new text in this file's own encoding and newlines."""
        text = f"{header}\n{body}"
        if 2 * self.raw.count(b"\r\n") > self.raw.count(b"\n"):
            text = text.replace("\n", "\r\n")
        return ((_BOM if self.raw.startswith(_BOM.encode()) else "") + text).encode()


def read_copy(path: Path) -> Copy:
    """Read the file at `path`.

    Raises:
        Refusal: if it is a link, no regular file, not UTF-8, or cannot be read.
    """
    if path.is_symlink():
        raise Refusal("a symbolic link: name the file itself")
    if not path.is_file():
        raise Refusal("not a regular file" if path.exists() else "no such file")
    try:
        raw = path.read_bytes()
        text = raw.decode().removeprefix(_BOM).replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Refusal(f"not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise Refusal(f"cannot be read: {error.strerror}") from error
    first, _, rest = text.partition("\n")
    header = Header.parse(first)
    return Copy(path, raw, header, rest if header else text)


@dataclass(frozen=True, slots=True)
class Report:
    """What a copy is: its state, and the three texts a merge or a diff needs.

    `base` and `new` are fitted like the copy, so that all three compare line by
    line. They are empty where the state is unknown.
    """

    path: Path
    state: str
    detail: str
    name: str | None = None
    version: str | None = None
    http: str | None = None
    edited: bool | None = None
    copy: Copy | None = field(default=None, repr=False)
    base: str = field(default="", repr=False)
    new: str = field(default="", repr=False)
    header: Header | None = None

    def as_json(self) -> dict[str, object]:
        """Return the fields for machines."""
        return {
            "path": str(self.path),
            "state": self.state,
            "detail": self.detail,
            "name": self.name,
            "version": self.version,
            "http": self.http,
            "edited": self.edited,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """One planned step. A refused plan is shown whole and carried out not at all."""

    path: Path
    action: str  # create, update, merge, conflict, adopt, unchanged, refused, unmerged
    name: str | None
    detail: str = ""
    write: Write | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, object]:
        """Return the fields for machines."""
        return {
            "path": str(self.path),
            "action": self.action,
            "name": self.name,
            "detail": self.detail,
        }


class Kit:
    """The shipped patterns and their history, below one package folder."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self.package = package

    @cached_property
    def version(self) -> str:
        """The version that new copies are marked with."""
        return history.version(self.package)

    @cached_property
    def shipped(self) -> dict[str, Pattern]:
        """Every pattern under its name and under its test's name."""
        found = catalogue(self.package)
        tests = {p.test_name: p for p in found if p.test_path.is_file()}
        return {p.name: p for p in found} | tests

    def text(self, name: str) -> str:
        """Return the shipped text of a pattern or of a test."""
        pattern = self.shipped[name]
        if name == pattern.name:
            return pattern.text
        return pattern.test_path.read_text(encoding="utf-8")

    def header(self, name: str) -> Header:
        """Return the header of a new copy."""
        return Header(DISTRIBUTION, self.version, name, digest(self.text(name)))

    def report(self, path: Path) -> Report:
        """Find out what the file at `path` is."""
        try:
            copy = read_copy(path)
        except Refusal as refusal:
            return Report(path, "unknown", str(refusal))
        header = copy.header
        if header is None:
            return self._headless(copy)
        fit = Fit.of(copy.body, header.name)
        known = Report(
            path,
            "unknown",
            "",
            name=header.name,
            version=header.version,
            http=fit.http,
            copy=copy,
        )
        if header.distribution != DISTRIBUTION:
            return replace(known, detail=f"copied from {header.distribution}")
        if has_markers(copy.body):
            return replace(known, state="unmerged", detail="conflict markers are left")
        base = self._base(header)
        if base is None:
            return replace(known, detail=self._lost(header))
        return self._compare(known, header, fit.on(base, header.name), fit)

    def _headless(self, copy: Copy) -> Report:
        row = self._recognise(copy.body)
        if row is None:
            return Report(copy.path, "unknown", "no copy of a pattern", copy=copy)
        detail = f"is {row.name} {row.version} without its line: `patterns adopt` it"
        return Report(copy.path, "unknown", detail, name=row.name, copy=copy)

    def _recognise(self, body: str) -> history.Row | None:
        """Find the released text that `body` is a copy of, whatever its fit."""
        found = history.find(digest(body), self.package)
        if found and found.text is not None:
            return found
        for row in (*history.current(self.package), *history.rows(self.package)):
            if row.text is not None and (
                body == row.text
                or body == Fit.of(body, row.name).on(row.text, row.name)
            ):
                return row
        return None

    def _base(self, header: Header) -> str | None:
        """Return the released text a copy was made from."""
        if header.name in self.shipped:
            text = self.text(header.name)
            if digest(text) == header.sha256:
                return text
        row = history.find(header.sha256, self.package)
        return row.text if row else None

    def _lost(self, header: Header) -> str:
        if _newer(header.version, self.version):
            return (
                f"copied from {header.version}, newer than the installed"
                f" {self.version}: upgrade {DISTRIBUTION}"
            )
        return (
            f"its base, sha256:{header.sha256}, is in no release up to {self.version}"
        )

    def _compare(self, known: Report, header: Header, base: str, fit: Fit) -> Report:
        assert known.copy is not None
        edited = known.copy.body != base
        state, renewed, new = "edited" if edited else "pristine", header, base
        if header.name not in self.shipped:
            detail = f"{header.name} is not in {self.version} any more"
        else:
            renewed = self.header(header.name)
            new = fit.on(self.text(header.name), header.name)
            detail = "with your edits" if edited else "without edits"
            if renewed.sha256 == header.sha256:
                detail, renewed = "", header
            else:
                state, detail = "outdated", f"changed in {self.version}; {detail}"
        return replace(
            known,
            state=state,
            detail=detail,
            edited=edited,
            base=base,
            new=new,
            header=renewed,
        )

    def plan_add(
        self, names: Iterable[str], to: Path, tests: Path | None, http: str | None
    ) -> list[Change]:
        """Plan the copies of `names` into `to`, and of their tests into `tests`."""
        for folder in (to, tests):
            if folder is not None:
                try:
                    check_destination(folder)
                except Refusal as refusal:
                    return [Change(folder, "refused", None, str(refusal))]
        plan: list[Change] = []
        for pattern in (self.shipped[name] for name in names):
            path = to / f"{pattern.stem}.py"
            plan.append(self._plan_copy(pattern.name, path, Fit(http)))
            if tests is not None:
                plan += self._plan_tests(pattern, to, tests, http)
        return _without_clashes(plan)

    def _plan_tests(
        self, pattern: Pattern, to: Path, tests: Path, http: str | None
    ) -> list[Change]:
        path = tests / f"test_{pattern.stem}.py"
        if pattern.test_name not in self.shipped:
            return [Change(path, "refused", None, f"{pattern.name} ships no test")]
        try:
            check_import(self.text(pattern.test_name), pattern.test_name)
            fit = Fit(http, import_line(pattern.stem, to, tests))
        except Refusal as refusal:
            return [Change(path, "refused", pattern.test_name, str(refusal))]
        plan = [self._plan_copy(pattern.test_name, path, fit)]
        return plan + self._plan_vectors(pattern, tests)

    def _plan_vectors(
        self, pattern: Pattern, tests: Path, *, keep: bool = False
    ) -> list[Change]:
        """Plan the vector files beside a test; an edited one is refused, or kept."""
        plan = []
        for source in pattern.vectors:
            path, name = tests / "vectors" / source.name, f"vectors/{source.name}"
            new = source.read_bytes()
            if not os.path.lexists(path):
                plan.append(Change(path, "create", name, "", Write(path, new, None)))
                continue
            try:
                copy = read_copy(path)
            except Refusal as refusal:
                plan.append(Change(path, "refused", name, str(refusal)))
                continue
            row = history.find(digest(copy.body), self.package)
            if digest(copy.body) == digest(new.decode()):
                plan.append(Change(path, "unchanged", name))
            elif row and row.name == name:
                write = Write(path, new, copy.raw)
                plan.append(Change(path, "update", name, "", write))
            elif keep:
                plan.append(Change(path, "unchanged", name, "your own version is kept"))
            else:
                plan.append(Change(path, "refused", name, "no released vector file"))
        return plan

    def _plan_copy(self, name: str, path: Path, wanted: Fit) -> Change:
        """Plan one copy: a new file, or an unedited older copy replaced."""
        header, text = self.header(name), self.text(name)
        if not os.path.lexists(path):
            content = f"{header}\n{wanted.on(text, name)}".encode()
            return Change(path, "create", name, "", Write(path, content, None))
        report = self.report(path)
        if report.copy is None:
            return Change(path, "refused", name, report.detail)
        found = Fit.of(report.copy.body, name)
        fit = Fit(wanted.http or found.http, wanted.imports)
        new = fit.on(text, name)
        if report.copy.body == new and report.header in (None, header):
            same = (
                "" if report.header else "without its line: `patterns adopt` writes it"
            )
            return Change(path, "unchanged", name, same)
        if reason := _not_ours_toreplace(report, name):
            return Change(path, "refused", name, reason)
        if report.copy.body == new and report.copy.header == report.header:
            return Change(path, "unchanged", name)
        write = Write(path, report.copy.render(header, new), report.copy.raw)
        return Change(path, "update", name, f"from {report.version}", write)

    def plan_update(self, paths: Iterable[Path]) -> list[Change]:
        """Plan to bring copies up to date, keeping local edits."""
        plan: list[Change] = []
        for report in map(self.report, paths):
            plan.append(self._plan_merge(report))
            name = report.name or ""
            if report.state != "unknown" and name in self.shipped:
                pattern = self.shipped[name]
                if name == pattern.test_name:
                    plan += self._plan_vectors(pattern, report.path.parent, keep=True)
        return plan

    def _plan_merge(self, report: Report) -> Change:
        path, name, copy = report.path, report.name, report.copy
        if report.state in ("unmerged", "unknown") or not (copy and report.header):
            action = "unmerged" if report.state == "unmerged" else "refused"
            return Change(path, action, name, report.detail)
        if report.state != "outdated":
            return Change(path, "unchanged", name, report.detail)
        labels = (
            "yours",
            f"base {report.version}",
            f"new {report.header.version}",
        )
        merged = merge(report.base, copy.body, report.new, labels=labels)
        action = "merge" if report.edited else "update"
        detail = f"{report.version} to {report.header.version}"
        if merged.conflicts:
            action, detail = "conflict", f"{detail}, {merged.conflicts} to resolve"
        write = Write(path, copy.render(report.header, merged.text), copy.raw)
        return Change(path, action, name, detail, write)

    def plan_adopt(self, paths: Iterable[Path]) -> list[Change]:
        """Plan to write the line into hand-copied files."""
        return [self._plan_adopt(path) for path in paths]

    def _plan_adopt(self, path: Path) -> Change:
        try:
            copy = read_copy(path)
        except Refusal as refusal:
            return Change(path, "refused", None, str(refusal))
        if copy.header is not None:
            return Change(path, "unchanged", copy.header.name, "has its line already")
        row = self._recognise(copy.body)
        if row is None:
            return Change(
                path,
                "refused",
                None,
                "its text is no released pattern: adopt before you edit",
            )
        header = Header(DISTRIBUTION, row.version, row.name, row.sha256)
        write = Write(path, copy.render(header, copy.body), copy.raw)
        return Change(path, "adopt", row.name, f"as {row.version}", write)


def _not_ours_toreplace(report: Report, name: str) -> str:
    """Say why an existing file must stay, or nothing if it is an unedited copy."""
    if report.state in ("unknown", "unmerged"):
        return report.detail
    if report.name != name:
        return f"is a copy of {report.name}"
    return "has your edits: `patterns update` keeps them" if report.edited else ""


def _without_clashes(plan: list[Change]) -> list[Change]:
    """Refuse a second, different text for one path; drop a repeated one."""
    seen: dict[Path, Change] = {}
    for change in plan:
        first = seen.setdefault(change.path, change)
        if first.name != change.name:
            detail = f"would hold both {first.name} and {change.name}"
            seen[change.path] = Change(change.path, "refused", change.name, detail)
    return list(seen.values())


def _newer(one: str, other: str) -> bool:
    """Compare the release numbers of two versions."""

    def numbers(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version)[:3]]

    return numbers(one) > numbers(other)


def scan(path: Path) -> Iterator[Path]:
    """Yield the copies below the folder `path`: the Python files with a header.

    Hidden folders, caches, virtual environments and node_modules are passed over,
    and links to folders are not followed. A file without the line has opted out.
    """
    for folder, folders, files in os.walk(path):
        here = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and name not in ("__pycache__", "node_modules", "site-packages")
            and not (here / name / "pyvenv.cfg").exists()
        )
        yield from (
            here / name
            for name in sorted(files)
            if name.endswith(".py") and _has_header(here / name)
        )


def _has_header(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first = file.readline(300)
    except OSError:
        return False
    line = first.decode(errors="replace").removeprefix(_BOM).rstrip("\r\n")
    return Header.parse(line) is not None
