"""`patterns rest-check`: an API's design, checked in its OpenAPI document."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patterns._kit.catalogue import catalogue
from patterns.rest.design_check import RULES

Run = Callable[..., Any]

OK = {"description": "Fine."}
CLEAN = {"openapi": "3.1.0", "info": {"title": "T", "version": "1"}, "paths": {}}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that writes a document with these paths, and names it."""
    monkeypatch.chdir(tmp_path)

    def write(*paths: str, **more: object) -> str:
        document = CLEAN | {"paths": {path: {} for path in paths}} | more
        Path("openapi.json").write_text(json.dumps(document), "utf-8")
        return "openapi.json"

    return write


def test_a_clean_document_exits_with_0(run: Run, write: Callable[..., str]) -> None:
    """Nothing is said of a document that breaks no rule."""
    ran = run("rest-check", write("/orders"))
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_a_line_for_each_finding(run: Run, write: Callable[..., str]) -> None:
    """File, pointer, severity, rule and message stand in a line; the exit is 1."""
    ran = run("rest-check", write("/orders/", "/a~b.json"))
    assert ran.status == 1
    assert ran.out.splitlines() == [
        "openapi.json:/paths/~1a~0b.json: warning rest/path-form"
        " The path ends in a file extension: `Accept` says which format.",
        "openapi.json:/paths/~1orders~1: warning rest/path-form"
        " The path has an empty segment or ends in a slash.",
    ]


def test_json_is_one_object(run: Run, write: Callable[..., str]) -> None:
    """With --json the findings are rows of one object; the text is for people."""
    ran = run("rest-check", write("/orders/"), "--json")
    assert ran.status == 1
    assert ran.json == {
        "schema": 1,
        "command": "rest-check",
        "findings": [
            {
                "pointer": "/paths/~1orders~1",
                "rule": "rest/path-form",
                "severity": "warning",
                "message": "The path has an empty segment or ends in a slash.",
            }
        ],
    }
    assert "rest/path-form" in ran.err


def test_hints_alone_exit_with_0(run: Run, write: Callable[..., str]) -> None:
    """Findings that are info are shown, and are no failure."""
    ran = run("rest-check", write(paths={"/as": {"trace": {"responses": {"200": OK}}}}))
    assert ran.status == 0
    assert "info rest/too-many-requests" in ran.out


def test_rules_are_taken_and_left(run: Run, write: Callable[..., str]) -> None:
    """--select and --ignore name rules, each as often as it is needed."""
    file = write("/orders/", "/get")
    assert run("rest-check", file, "--select", "rest/path-verb").out.count("\n") == 1
    left = ["--ignore", "rest/path-verb", "--ignore", "rest/path-form"]
    assert run("rest-check", file, *left).status == 0
    ran = run("rest-check", file, "--ignore", "rest/nope")
    assert (ran.status, ran.out) == (2, "")
    assert "no such rule: rest/nope" in ran.err


def test_rules_are_listed(run: Run) -> None:
    """--rules prints each rule with what it stands on, as text or as rows."""
    ran = run("rest-check", "--rules", "--json")
    assert ran.status == 0
    rows = ran.json["rules"]
    assert [row["id"] for row in rows] == [rule.id for rule in RULES]
    assert set(rows[0]) == {"id", "severity", "sentence", "sources"}
    assert "RFC 9457 §3; Zalando #176" in run("rest-check", "--rules").out


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"swagger": "2.0"}', "this is Swagger 2.0"),
        (b"\xff", "not UTF-8"),
        (b"a: [", "not JSON or YAML"),
    ],
)
def test_no_document_exits_with_2(
    run: Run, write: Callable[..., str], text: bytes, why: str
) -> None:
    """What is no document is named with the reason, in a line."""
    file = write()
    Path(file).write_bytes(text)
    ran = run("rest-check", file)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"openapi.json: {why}")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["a.json", "--rules"], ["a.json", "b.json"]])
def test_usage(run: Run, argv: list[str]) -> None:
    """One file, or the rules."""
    ran = run("rest-check", *argv)
    assert ran.status == 2
    assert "usage: patterns" in ran.err


def test_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """A file that cannot be read is a line and no traceback; so is a folder."""
    for path in (tmp_path / "nope.yaml", tmp_path):
        ran = run("rest-check", str(path))
        assert ran.status == 2
        assert ran.err.startswith(f"{path}: ")
        assert ran.err.count("\n") == 1


def test_the_terminal_is_spared(run: Run, write: Callable[..., str]) -> None:
    """What the document has of control characters does not reach the terminal."""
    out = run("rest-check", write("/a\x1b[2Jb\n\ud800/")).out
    assert "/a\\x1b[2Jb\\n\\ud800~1" in out.replace("~1a", "/a")


def test_without_the_parser(tmp_path: Path) -> None:
    """Where the packages are missing the verb says in a line how to get them."""
    code = (
        "import sys; sys.modules['jsonschema'] = None;"
        "from patterns._kit.cli import main; sys.exit(main(['rest-check', 'a.yaml']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.splitlines() == [
        "jsonschema is not installed: uvx --from"
        " 'api-integration-patterns[rest-check]' patterns rest-check a.yaml"
    ]


def test_the_extra_installs_what_the_check_needs() -> None:
    """The extra of the package and the block of the pattern name the same packages."""
    root = Path(__file__).resolve().parents[2]
    settings = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    extra = settings["project"]["optional-dependencies"]["rest-check"]
    (pattern,) = (p for p in catalogue() if p.name == "rest/design_check")
    assert sorted(extra) == sorted(pattern.requires)
