# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""The `patterns` command: list, read, copy, compare and update patterns.

It never prompts, never uses the network, and never runs pip or git. `--json` prints
one object on standard output; text for people then goes to standard error.

`patterns list` and `patterns --help` start in at most three times a bare
interpreter, of which `argparse` alone takes half: a command imports what it needs
when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys

from patterns._kit.catalogue import Pattern, catalogue

TYPE_CHECKING = False  # without the cost of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import TextIO

    from patterns._kit.copier import Change, Kit, Report
    from patterns.rest.design_check import Rule

__all__ = ["main"]

SCHEMA = 1

# Verbs that hand the rest of the command line to `main(argv) -> int` of a module:
# the module, the dependency group that it needs, and what it does.
_DELEGATES = {
    "garden": (
        "patterns._kit.garden",
        "site",
        "check and write what the notes, patterns and notebooks say of each other",
    ),
}

_EXITS = """\
exit status: 0 done or in order; 1 refused, different, or not current;
2 usage; 3 conflicts are left in a file"""


def main(argv: list[str] | None = None, *, package: Path | None = None) -> int:
    """Run one command, on the installed patterns, and return its exit status."""
    if argv is None:
        argv = sys.argv[1:]
        _speak_utf8()
    try:
        if argv and argv[0] in _DELEGATES:
            return _delegate(argv[0], argv[1:])
        args = _parser(argv[0] if argv else None).parse_args(argv)
        if args.version:
            args.command = "version"
        status: int = _Command(args, package).run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `patterns list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _speak_utf8() -> None:
    """Write UTF-8 whatever the locale, so that `patterns show` gives a true copy."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8")


def _path(text: str) -> Path:
    from pathlib import Path

    return Path(text)


def _delegate(verb: str, argv: list[str]) -> int:
    from importlib import import_module

    module, group, _ = _DELEGATES[verb]
    try:
        run: Callable[[list[str]], int] = import_module(module).main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "patterns":
            raise
        print(
            f"patterns {verb}: {error.name} is not installed. In a clone of the"
            f" project the dependency group `{group}` has it: uv sync --group {group}",
            file=sys.stderr,
        )
        return 2
    return run(argv)


def _formatter(prog: str) -> argparse.HelpFormatter:
    # argparse would import shutil (and so bz2, lzma, zlib) to learn the width.
    width = int(os.environ.get("COLUMNS") or 0)
    if not width and sys.stdout.isatty():
        width = os.get_terminal_size(sys.stdout.fileno()).columns
    return argparse.RawDescriptionHelpFormatter(prog, width=(width or 80) - 2)


def _parser(only: str | None) -> argparse.ArgumentParser:
    """Return the parser, with the verb `only`, or with all of them if it is none."""
    parser = argparse.ArgumentParser(
        prog="patterns",
        description="API integration patterns, to read, to copy and to own.",
        epilog=_EXITS,
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(usage_error=parser.error)
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (text, add_arguments) in _VERBS.items():
        if only not in _VERBS or name == only:
            verb = verbs.add_parser(
                name,
                help=text,
                description=f"{text[0].upper()}{text[1:]}.",
                formatter_class=_formatter,
                allow_abbrev=False,
            )
            verb.add_argument(
                "--json", action="store_true", help="print one JSON object"
            )
            verb.set_defaults(usage_error=verb.error)
            add_arguments(verb)
    if only not in _VERBS:
        for name, (_, _, text) in _DELEGATES.items():
            verbs.add_parser(name, help=text, add_help=False)
    return parser


def _list_arguments(_: argparse.ArgumentParser) -> None:
    pass


def _name_argument(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name", metavar="NAME", help="folder/file, as `list` prints it")


def _add_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="folder/file, or a folder for all of it",
    )
    verb.add_argument("--to", required=True, metavar="DIR", type=_path, help="where to")
    verb.add_argument(
        "--tests", metavar="DIR", type=_path, help="copy the tests too, to this folder"
    )
    verb.add_argument(
        "--http",
        choices=("httpx", "httpx2"),
        help="which package the copies import as httpx",
    )
    verb.add_argument("--dry-run", action="store_true", help="write nothing")


def _status_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "paths", nargs="*", metavar="PATH", type=_path, help="by default all from here"
    )


def _diff_arguments(verb: argparse.ArgumentParser) -> None:
    sides = verb.add_mutually_exclusive_group()
    sides.add_argument("--mine", action="store_true", help="what you changed")
    sides.add_argument("--theirs", action="store_true", help="what the pattern changed")
    _file_arguments(verb)


def _update_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--dry-run", action="store_true", help="write nothing")
    _file_arguments(verb)


def _rest_check_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("file", nargs="?", metavar="FILE", help="JSON or YAML")
    verb.add_argument("--rules", action="store_true", help="list the rules instead")
    for option, text in (("select", "look with this rule"), ("ignore", "leave it out")):
        verb.add_argument(
            f"--{option}", action="append", metavar="RULE", help=f"{text}; repeatable"
        )


def _file_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("paths", nargs="+", metavar="FILE", type=_path)


_VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "list": ("list the patterns", _list_arguments),
    "info": ("say what a pattern is for, needs and exports", _name_argument),
    "show": ("print the source of a pattern", _name_argument),
    "add": ("copy patterns into a folder", _add_arguments),
    "status": ("say how copies stand to the installed version", _status_arguments),
    "diff": ("compare copies with the installed version", _diff_arguments),
    "update": ("bring copies up to date, keeping your edits", _update_arguments),
    "adopt": ("recognise copies made by hand", _update_arguments),
    "rest-check": ("check an API's design in its OpenAPI file", _rest_check_arguments),
}


class _Command:
    """One run of one command; `say` is for people, `result` for machines."""

    def __init__(self, args: argparse.Namespace, package: Path | None) -> None:
        self.args = args
        self.patterns = catalogue(package) if package else catalogue()
        self.package = package
        self.json: bool = getattr(args, "json", False)

    def kit(self) -> Kit:
        from patterns._kit.catalogue import PACKAGE
        from patterns._kit.copier import Kit

        return Kit(self.package or PACKAGE)

    def run(self) -> int:
        command: str | None = self.args.command
        if command is None:
            self.args.usage_error("a COMMAND is required; `patterns --help` lists them")
        status: int = getattr(self, f"do_{str(command).replace('-', '_')}")()
        return status

    def say(self, *lines: str) -> None:
        stream: TextIO = sys.stderr if self.json else sys.stdout
        for line in lines:
            print(line, file=stream)

    def warn(self, line: str) -> None:
        print(line, file=sys.stderr)

    def result(self, **fields: object) -> None:
        if self.json:
            import json

            head = {"schema": SCHEMA, "command": self.args.command}
            print(json.dumps(head | fields, indent=2))

    # --version, list, info, show

    def do_version(self) -> int:
        print(f"patterns {self.kit().version}")
        return 0

    def do_list(self) -> int:
        wide = max((len(p.name) for p in self.patterns), default=0)
        self.say(*(f"{p.name:{wide}}  {p.promise}" for p in self.patterns))
        self.result(patterns=[_row(p) for p in self.patterns])
        return 0

    def do_info(self) -> int:
        pattern = self._one(self.args.name)
        self.say(
            f"{pattern.name}: {pattern.promise}",
            "",
            *pattern.doc.split("\n")[2:],
            "",
            f"needs    {', '.join(pattern.requires) or 'the standard library only'}",
            f"exports  {', '.join(pattern.exports)}",
            f"file     {pattern.path}",
            f"copy     patterns add {pattern.name} --to DIR [--tests DIR]",
        )
        self.result(pattern=_card(pattern))
        return 0

    def do_show(self) -> int:
        pattern = self._one(self.args.name)
        if self.json:
            self.result(pattern=_card(pattern) | {"text": pattern.text})
        else:
            sys.stdout.write(pattern.text)
        return 0

    def _one(self, name: str) -> Pattern:
        found = [p for p in self.patterns if p.name == name]
        below = [p.name for p in self.patterns if p.folder == name.rstrip("/")]
        if below:
            self.args.usage_error(
                f"{name!r} is a folder: name one of {', '.join(below)}"
            )
        return found[0] if found else self._no_such(name)

    def _named(self, names: Iterable[str]) -> list[Pattern]:
        """Resolve names and folders, in order, each pattern once."""
        chosen: dict[str, Pattern] = {}
        for name in names:
            wanted = [
                p for p in self.patterns if name.rstrip("/") in (p.name, p.folder)
            ]
            chosen |= {p.name: p for p in wanted or [self._no_such(name)]}
        return list(chosen.values())

    def _no_such(self, name: str) -> Pattern:
        from difflib import get_close_matches

        stem = name.removesuffix(".py").rpartition("/")[2]
        near = [p.name for p in self.patterns if p.stem == stem]
        known = [p.name for p in self.patterns] + sorted(
            {p.folder for p in self.patterns}
        )
        near += get_close_matches(name, known, n=3)
        near += [
            p.name for p in self.patterns if p.stem in get_close_matches(stem, [p.stem])
        ]
        hint = (
            f"did you mean {' or '.join(dict.fromkeys(near))}?"
            if near
            else "`patterns list` has them all"
        )
        self.args.usage_error(f"no pattern {name!r}: {hint}")
        raise AssertionError  # usage_error exits

    # add, update, adopt

    def do_add(self) -> int:
        from patterns._kit.needs import needs

        args = self.args
        names = [pattern.name for pattern in self._named(args.names)]
        plan = self.kit().plan_add(names, args.to, args.tests, args.http)
        copies_need, tests_need = needs(plan)
        status = self._carry_out(plan)
        if status == 0 and copies_need:
            self.say(f"needs: {', '.join(copies_need)}")
        if status == 0 and tests_need:
            self.say(f"the tests need: {', '.join(tests_need)}")
        self._plan_result(plan, requires=copies_need, test_requires=tests_need)
        return status

    def do_update(self) -> int:
        plan = self.kit().plan_update(self._files(self.args.paths))
        status = self._carry_out(plan)
        self._plan_result(plan)
        return status

    def do_adopt(self) -> int:
        plan = self.kit().plan_adopt(self.args.paths)
        status = self._carry_out(plan)
        self._plan_result(plan)
        return status

    def _carry_out(self, plan: list[Change]) -> int:
        """Show the plan and, unless a part of it is refused, write it."""
        from patterns._kit.writer import write_all

        self._warn_of_other_owners()
        actions = {change.action for change in plan}
        stopped = not actions.isdisjoint({"refused", "unmerged"})
        for change in plan:
            line = f"{change.action:9}  {change.path}"
            line += f"  ({change.detail})" if change.detail else ""
            loud = change.action in ("refused", "unmerged", "conflict")
            (self.warn if loud else self.say)(line)
        if stopped:
            self.warn("nothing was written")
            return 1 if "refused" in actions else 3
        if not self.args.dry_run:
            try:
                write_all(change.write for change in plan if change.write)
            except OSError as error:
                self.warn(f"{error}; every file is as it was")
                return 1
        return 3 if "conflict" in actions else 0

    def _plan_result(self, plan: list[Change], **more: object) -> None:
        files = [change.as_json() for change in plan]
        self.result(dry_run=self.args.dry_run, files=files, **more)

    # status, diff

    def do_status(self) -> int:
        self._warn_of_other_owners()
        kit = self.kit()
        reports = [kit.report(p) for p in self._files(self.args.paths or [_path(".")])]
        if not reports:
            self.say("no copies of patterns here")
        for report in reports:
            name = f"  {report.name} {report.version}" if report.version else ""
            detail = f"  ({report.detail})" if report.detail else ""
            self.say(f"{report.state:9}  {report.path}{name}{detail}")
        self.result(files=[report.as_json() for report in reports])
        current = all(report.state in ("pristine", "edited") for report in reports)
        return 0 if current else 1

    def do_diff(self) -> int:
        kit = self.kit()
        reports = [kit.report(path) for path in self._files(self.args.paths)]
        files = []
        status = 0
        for report in reports:
            text = ""
            if report.state in ("unknown", "unmerged"):
                self.warn(f"{report.state}  {report.path}  ({report.detail})")
                status = 1
            else:
                text = self._diff(report)
                status = 1 if text else status
                if not self.json:
                    sys.stdout.write(text)
            files.append(report.as_json() | {"diff": text})
        side = "mine" if self.args.mine else "theirs" if self.args.theirs else "both"
        self.result(side=side, files=files)
        return status

    def _diff(self, report: Report) -> str:
        """Return the unified diff that was asked for; the header line is left out."""
        from difflib import unified_diff

        from patterns._kit.merge import split_lines

        assert report.copy is not None
        assert report.header is not None
        yours = ("yours", report.copy.body)
        base = (f"base {report.version}", report.base)
        new = (f"new {report.header.version}", report.new)
        before, after = yours, new
        if self.args.mine:
            before, after = base, yours
        elif self.args.theirs:
            before, after = base, new
        lines = unified_diff(
            split_lines(before[1]),
            split_lines(after[1]),
            f"{report.path} ({before[0]})",
            f"{report.path} ({after[0]})",
        )
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        )

    # rest-check

    def do_rest_check(self) -> int:
        args = self.args
        if bool(args.rules) == bool(args.file):
            args.usage_error("name one FILE, or ask for --rules")
        try:
            from patterns.rest import design_check
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "patterns":
                raise
            how = (
                "uvx --from 'api-integration-patterns[rest-check]' patterns rest-check"
            )
            self.warn(f"{error.name} is not installed: {how} {args.file or '--rules'}")
            return 2
        if args.rules:
            return self._rest_rules(design_check.RULES)
        try:
            document = design_check.load(args.file)
            found = design_check.check(
                document, select=args.select, ignore=args.ignore or ()
            )
        except OSError as error:
            self.warn(f"{args.file}: {error.strerror or 'cannot be read'}")
            return 2
        except ValueError as error:  # no document, or no such rule
            self.warn(f"{args.file}: {error}")
            return 2
        for finding in found:
            where = f"{args.file}:{finding.pointer}"
            said = f"{where}: {finding.severity} {finding.rule} {finding.message}"
            self.say("".join(c if c.isprintable() else ascii(c)[1:-1] for c in said))
        rows = [
            {name: getattr(finding, name) for name in finding.__slots__}
            for finding in found
        ]
        self.result(findings=rows)
        return int(any(finding.severity != "info" for finding in found))

    def _rest_rules(self, rules: Iterable[Rule]) -> int:
        rows = [
            {name: getattr(rule, name) for name in rule.__slots__ if name != "look"}
            for rule in rules
        ]
        for rule in rules:
            self.say(f"{rule.id} ({rule.severity}): {rule.sentence}")
            self.say(f"    {'; '.join(rule.sources)}")
        self.result(rules=rows)
        return 0

    def _files(self, paths: Iterable[Path]) -> list[Path]:
        """Return the files named, and for a folder the copies found in it."""
        from patterns._kit.copier import scan

        files: list[Path] = []
        for path in paths:
            if path.is_dir():
                files += scan(path)
            elif not os.path.lexists(path):
                self.args.usage_error(f"no such file or folder: {path}")
            else:
                files.append(path)
        return list(dict.fromkeys(files))

    def _warn_of_other_owners(self) -> None:
        from patterns._kit.needs import other_owners

        if owners := other_owners():
            self.warn(
                f"warning: {', '.join(owners)} also installs a package `patterns`;"
                " one overwrites or hides the other"
            )


def _row(pattern: Pattern) -> dict[str, object]:
    return {
        "name": pattern.name,
        "promise": pattern.promise,
        "requires": pattern.requires,
    }


def _card(pattern: Pattern) -> dict[str, object]:
    from patterns._kit.header import digest

    test = pattern.test_path
    return _row(pattern) | {
        "module": pattern.module,
        "exports": pattern.exports,
        "doc": pattern.doc,
        "sha256": digest(pattern.text),
        "path": str(pattern.path),
        "test": str(test) if test.is_file() else None,
        "vectors": [path.name for path in pattern.vectors],
    }
