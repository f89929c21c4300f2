"""The built wheel, installed alone: what users get, and not what the clone has.

Two environments are made once and shared: one has httpx, the other httpx2 and no
httpx. Neither has the clone on its path, and every run is isolated (`python -I`) and
stands in another folder. In both, each pattern is copied alone into three kinds of
project and must import and pass its doctests there; and with its tests into one kind
for each package, so the suite of every pattern runs under both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from patterns._kit.catalogue import PACKAGE, Pattern, catalogue
from patterns._kit.copier import Kit
from patterns._kit.needs import imported

ROOT = PACKAGE.parent
PATTERNS = catalogue()
HTTPS = ("httpx", "httpx2")

each = pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)


@dataclass(frozen=True)
class Place:
    """A kind of project: where module and tests go, and what is put on the path."""

    to: str
    tests: str
    path: str
    name: str
    files: tuple[str, ...] = ()

    def prepare(self, project: Path) -> None:
        """Make the project's own files."""
        for name in self.files:
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text("", "utf-8")
        settings = f"[pytest]\npythonpath = {self.path}\n"
        (project / "pytest.ini").write_text(settings, "utf-8")


PLACES = {
    "bare": Place(".", ".", ".", "{stem}"),
    "src": Place(
        "src/acme/integrations",
        "tests",
        "src",
        "acme.integrations.{stem}",
        ("pyproject.toml", "src/acme/__init__.py", "src/acme/integrations/__init__.py"),
    ),
    "namespace": Place(
        "acme/net", "checks", ".", "acme.net.{stem}", ("pyproject.toml",)
    ),
}


def call(*argv: str | Path, cwd: Path, status: int | None = 0) -> str:
    """Run a command in `cwd`, outside of any environment; return what it prints."""
    ours = ("PYTHON", "VIRTUAL_ENV", "COV", "PYTEST")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    ran = subprocess.run(
        [str(part) for part in argv],
        cwd=cwd,
        # Hypothesis works its tables out anew in each folder, if not told of one.
        env=env | {"HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")},
        capture_output=True,
        text=True,
        check=False,
    )
    if status is not None:
        assert ran.returncode == status, f"{argv}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist as an index would have it."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    [sdist] = folder.glob("*.tar.gz")
    call("tar", "-xzf", sdist, "-C", folder, cwd=folder)
    [source] = (path for path in folder.iterdir() if path.is_dir())
    call(
        *(
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "-t",
            "wheel",
            "-d",
            folder / "w",
        ),
        cwd=source,
    )
    [built] = (folder / "w").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def environments(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The Python of an environment for each package that can be used as httpx.

    It has what the patterns declare and what their tests import. The wheel itself is
    installed without its own dependencies: the command needs none, and httpx must be
    missing where httpx2 takes its place.
    """
    return {
        http: environment(http, wheel, tmp_path_factory.mktemp(f"venv-{http}"))
        for http in HTTPS
    }


def environment(http: str, wheel: Path, folder: Path) -> Path:
    """Make an environment with `http` and the wheel; return its Python."""
    needs = {need for pattern in PATTERNS for need in pattern.requires}
    for pattern in PATTERNS:
        needs |= imported(pattern.test_path.read_text("utf-8")) - {"patterns", "httpx"}
    needs = {re.sub(r"^httpx\b.*", http, need) for need in needs} | {"pytest"}
    call("uv", "venv", "-q", "--python", sys.executable, folder, cwd=folder)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    install = ("uv", "pip", "install", "-q", "--python", python)
    install += ("--exclude-newer", settings["tool"]["uv"]["exclude-newer"])
    call(*install, *sorted(needs), cwd=folder)
    call(*install, "--no-deps", wheel, cwd=folder)
    other = next(name for name in HTTPS if name != http)
    call(python, "-I", "-c", f"import {other}", cwd=folder, status=1)
    return python


@pytest.fixture(params=HTTPS)
def venv(
    request: pytest.FixtureRequest, environments: dict[str, Path]
) -> tuple[str, Path]:
    """The package to use as httpx, and the Python of the environment that has it."""
    http: str = request.param
    return http, environments[http]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty folder that is not the clone."""
    return tmp_path


def test_the_wheel_has_what_the_command_needs(wheel: Path) -> None:
    """Every pattern, its test, its vectors and the history; no repository files."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for pattern in PATTERNS:
        assert f"patterns/{pattern.name}.py" in names
        assert f"patterns/_kit/tests/{pattern.test_name}.py" in names
        for vector in pattern.vectors:
            assert f"patterns/_kit/tests/vectors/{vector.name}" in names
    assert {"patterns/py.typed", "patterns/_kit/history.jsonl"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"patterns"}
    assert not any("build_hook" in name or "__pycache__" in name for name in names)


def test_what_is_shipped_is_the_tree(wheel: Path) -> None:
    """Patterns and tests are in the wheel byte for byte."""
    archive = zipfile.ZipFile(wheel)
    for pattern in PATTERNS:
        shipped = archive.read(f"patterns/{pattern.name}.py")
        assert shipped == pattern.path.read_bytes()
        test = archive.read(f"patterns/_kit/tests/{pattern.test_name}.py")
        assert test == pattern.test_path.read_bytes()


def test_every_command_works_from_the_wheel(
    venv: tuple[str, Path], project: Path
) -> None:
    """In another folder, isolated, the installed command does all it promises."""
    http, python = venv
    pattern = PATTERNS[0]

    def run(*argv: str, status: int = 0) -> Any:
        command = (python, "-I", "-m", "patterns", *argv, "--json")
        return json.loads(call(*command, cwd=project, status=status))

    listed = run("list")["patterns"]
    assert [row["name"] for row in listed] == [p.name for p in PATTERNS]
    card = run("info", pattern.name)["pattern"]
    assert Path(card["path"]).is_relative_to(python.parents[1])
    assert run("show", pattern.name)["pattern"]["text"] == pattern.text
    added = run("add", pattern.folder, "--to", "lib", "--tests", "t", "--http", http)
    assert {row["action"] for row in added["files"]} == {"create"}
    states = run("status")["files"]
    assert {row["state"] for row in states} == {"pristine"}
    copy = f"lib/{pattern.stem}.py"
    edited = (project / copy).read_text("utf-8") + "# mine\n"
    (project / copy).write_text(edited, "utf-8")
    assert "+# mine" in run("diff", copy, "--mine", status=1)["files"][0]["diff"]
    assert run("update", copy)["files"][0]["action"] == "unchanged"
    (project / "hand.py").write_text(pattern.text, "utf-8")
    assert run("adopt", "hand.py")["files"][0]["action"] == "adopt"
    script = python.with_name("patterns")
    version = call(script, "--version", cwd=project)
    assert version.split()[0] == "patterns"
    assert run("status", status=0)["files"][0]["version"] == version.split()[1]


def test_garden_tells_what_it_needs(venv: tuple[str, Path], project: Path) -> None:
    """From the wheel alone `patterns garden` exits 2 and says what it lacks."""
    ran = subprocess.run(
        [venv[1], "-I", "-m", "patterns", "garden", "check"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "patterns garden" in ran.stderr
    assert "Traceback" not in ran.stderr


NOT_OURS = "assert not any(name.split('.')[0] == 'patterns' for name in sys.modules)"


@each
@pytest.mark.parametrize("where", PLACES)
def test_a_copy_stands_alone(
    venv: tuple[str, Path], project: Path, pattern: Pattern, where: str
) -> None:
    """Copied alone, a pattern imports, is itself, and passes its doctests."""
    http, python = venv
    place = PLACES[where]
    place.prepare(project)
    add = (python, "-I", "-m", "patterns", "add", pattern.name, "--to", place.to)
    call(*add, "--http", http, cwd=project)
    module = place.name.format(stem=pattern.stem)
    on_path = f"import sys; sys.path.insert(0, {str(project / place.path)!r})"
    code = f"{on_path}; import {module} as m; print(m.__file__); {NOT_OURS}"
    copy = project / place.to / f"{pattern.stem}.py"
    assert call(python, "-I", "-c", code, cwd=project) == f"{copy}\n"
    call(python, "-I", "-m", "doctest", copy, cwd=project)


# The properties are tried at length in the clone; here a few examples show that the
# copied test can try them.
FEW = """\
from hypothesis import settings

settings.register_profile("few", max_examples=5, deadline=None)
settings.load_profile("few")
"""


@each
@pytest.mark.parametrize(
    ("venv", "where"),
    [("httpx", "src"), ("httpx2", "namespace")],
    indirect=["venv"],
)
def test_a_copy_passes_its_copied_tests(
    venv: tuple[str, Path], project: Path, pattern: Pattern, where: str
) -> None:
    """In projects of two kinds, and under both packages, the copied test passes."""
    http, python = venv
    place = PLACES[where]
    place.prepare(project)
    if "hypothesis" in imported(pattern.test_path.read_text("utf-8")):
        (project / "conftest.py").write_text(FEW, "utf-8")
    call(
        *(python, "-I", "-m", "patterns", "add", pattern.name, "--to", place.to),
        *("--tests", place.tests, "--http", http),
        cwd=project,
    )
    test = project / place.tests / f"test_{pattern.stem}.py"
    pytest_alone = (python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert " passed" in call(*pytest_alone, test, cwd=project)


@each
def test_a_script_runner_reads_the_block_below_the_header(
    pattern: Pattern, project: Path
) -> None:
    """With the line above it the PEP 723 block still gives a copy its packages."""
    copy = project / f"{pattern.stem}.py"
    copy.write_text(f"{Kit().header(pattern.name)}\n{pattern.text}", "utf-8")
    call("uv", "run", "--isolated", "--no-project", "-q", copy.name, cwd=project)
