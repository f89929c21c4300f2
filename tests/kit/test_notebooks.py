"""The notebooks: what they print is checked, and they run where there is nothing."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
START = ROOT / "notebooks" / "start.ipynb"

each_book = pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def runner() -> Any:
    """Return the module that executes notebooks; the tests are no package."""
    path = Path(__file__).with_name("run_notebooks.py")
    spec = importlib.util.spec_from_file_location("run_notebooks", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(path: Path, kind: str) -> list[Any]:
    """Return the cells of a kind."""
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def printed(path: Path) -> str:
    """Return all text that a notebook has stored as output."""
    outputs = [output for cell in cells(path, "code") for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    return "".join([*texts, *(str(o.data) for o in outputs if "data" in o)])


def strict(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the notebooks of a folder as the suite does, and compare what they print."""
    command = [
        "-m",
        "pytest",
        "--nbval",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
    ]
    return subprocess.run(
        [sys.executable, *command, "--rootdir", str(folder), str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
    )


def altered(cell: Any) -> bool:
    """Change the first digit that a cell has printed, and tell whether there is one."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and re.search(r"\d", output.text):
            output.text = re.sub(
                r"\d", lambda m: str((int(m[0]) + 1) % 10), output.text, count=1
            )
            return True
    return False


@each_book
def test_changed_digit_fails(path: Path, tmp_path: Path) -> None:
    """One changed digit of what a cell has printed fails that cell, and no other."""
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    wanted = [f"Cell {n}" for n, cell in enumerate(code) if altered(cell)]
    assert wanted
    nbformat.write(book, tmp_path / path.name)
    done = strict(tmp_path)
    assert done.returncode == 1, done.stdout
    failed = re.findall(r"^FAILED \S+::(Cell \d+)", done.stdout, re.MULTILINE)
    assert failed == wanted, done.stdout


ALONE = """
import ast, asyncio, json, sys, threading

armed = False

def start(thread):
    if armed:
        raise RuntimeError("a notebook may not start a thread")
    begin(thread)

begin, threading.Thread.start = threading.Thread.start, start

def watch(event, args):
    if not armed:
        return
    forbidden = event.startswith(("socket.", "subprocess.", "os.exec", "os.fork"))
    if forbidden or event in ("os.system", "os.putenv"):
        raise RuntimeError(f"a notebook may not do this: {event}")
    if event == "sqlite3.connect" and args[0] != ":memory:":
        raise RuntimeError("a notebook may not keep a database in a file")
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise RuntimeError(f"a notebook may not write a file: {args[0]}")

def run(path):
    global armed
    loop = asyncio.new_event_loop()
    sys.addaudithook(watch)
    sys.dont_write_bytecode = True
    book, names = json.load(open(path)), {"__name__": "__main__"}
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            code = compile(source, cell["id"], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            armed = True
            todo = eval(code, names)
            if todo is not None:
                loop.run_until_complete(todo)
            armed = False
    loop.close()

run(sys.argv[1])
"""


def alone(path: Path) -> subprocess.CompletedProcess[str]:
    """Run a notebook's code in a process that allows no socket, thread or file."""
    return subprocess.run(
        [sys.executable, "-c", ALONE, str(path)],
        capture_output=True,
        text=True,
        cwd=path.parent,
    )


@each_book
def test_needs_nothing(path: Path) -> None:
    """A notebook opens no socket, starts no thread or process, and writes no file."""
    done = alone(path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("import socket; socket.socket()", "socket.__new__"),
        ("import threading; threading.Thread(target=print).start()", "start a thread"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import os; os.system('true')", "os.system"),
        ("open('left.txt', 'w')", "write a file"),
        ("import sqlite3; sqlite3.connect('left.db')", "database in a file"),
        ("import asyncio; await asyncio.to_thread(print)", "start a thread"),
    ],
)
def test_watch(code: str, event: str, tmp_path: Path) -> None:
    """The process that runs notebooks alone does stop what it is to stop."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(book, tmp_path / "bad.ipynb")
    done = alone(tmp_path / "bad.ipynb")
    assert done.returncode == 1
    assert event in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["bad.ipynb"]


@each_book
def test_run_again(path: Path, runner: Any) -> None:
    """A notebook that is executed again is the same file, byte for byte."""
    fresh = nbformat.writes(runner.execute(path)) + "\n"
    assert fresh == path.read_text(encoding="utf-8")


@each_book
def test_form(path: Path) -> None:
    """A code cell has ten lines at most, and a reason in prose before it."""
    before = ""
    for cell in nbformat.read(path, as_version=4).cells:
        assert cell.source.strip(), f"{cell.id} is empty"
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 10, f"{cell.id} has {len(lines)} lines"
            assert max(map(len, lines)) <= 88, f"{cell.id} is too wide"
            assert before, f"{cell.id} comes before any prose"
            assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), cell.id
        before = cell.cell_type


@each_book
def test_no_error_is_stored(path: Path) -> None:
    """Every cell ran to its end; a failure that is shown was caught and printed."""
    kinds = {output.output_type for c in cells(path, "code") for output in c.outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    names = {
        output.get("name", "stdout")
        for c in cells(path, "code")
        for output in c.outputs
    }
    assert names <= {"stdout"}


@each_book
def test_output_is_of_no_machine(path: Path) -> None:
    """No output holds a path of a machine, a date with a time, or an address."""
    text = printed(path)
    assert not re.search(r"(?<![\w/])/(home|root|tmp|usr|work|Users)\b|[A-Z]:\\", text)
    assert not re.search(r"\d\d:\d\d:\d\d|0x[0-9a-f]{6}", text)


@each_book
def test_metadata(path: Path) -> None:
    """A notebook names the common kernel, and keeps no version and no time."""
    book = nbformat.read(path, as_version=4)
    assert book.metadata == {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    assert all(set(cell.metadata) <= {"tags"} for cell in book.cells)
    counts = [cell.execution_count for cell in book.cells if cell.cell_type == "code"]
    assert counts == [*range(1, len(counts) + 1)]


@each_book
def test_images_can_be_heard(path: Path) -> None:
    """Each figure is an SVG with a name and a title, without a background or script."""
    for cell in cells(path, "code"):
        for output in cell.outputs:
            data = output.get("data", {})
            assert not {kind for kind in data if kind.startswith("image/")} - {
                "image/svg+xml"
            }
            if svg := data.get("image/svg+xml"):
                assert re.search(r'<svg[^>]* role="img" aria-label="[^"]{10,}"', svg)
                assert "<title>" in svg
                assert not re.search(r'width="100%"|<script|href=|\bwhite\b|#fff', svg)


@each_book
def test_ends_with_the_copy_command(path: Path) -> None:
    """The last cell shows how the patterns of the notebook are copied."""
    book = nbformat.read(path, as_version=4)
    shown = re.search(
        r"^uv run patterns add (.+) --to \S+$", book.cells[-1].source, re.M
    )
    assert shown
    code = "\n".join(cell.source for cell in cells(path, "code"))
    for name in shown[1].split():
        folder, _, stem = name.partition("/")
        assert (ROOT / "patterns" / folder / f"{stem}.py").is_file(), name
        assert re.search(rf"patterns\.{folder}\b.*\b{stem}\b", code), name


def notes() -> dict[str, list[str]]:
    """Return the notebooks that each page's frontmatter names."""
    found = {}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        front = re.match(r"---\n(.*?\n)---\n", path.read_text("utf-8"), re.DOTALL)
        if front:
            named = yaml.safe_load(front[1]).get("notebooks") or []
            found[path.relative_to(ROOT).as_posix()] = named
    return found


def test_each_has_its_page() -> None:
    """Every notebook but the first one is named by a note, and every name is one."""
    named = {name for page, names in notes().items() for name in names}
    wanted = {path.relative_to(ROOT).as_posix() for path in BOOKS}
    assert named <= wanted
    assert wanted - named <= {START.relative_to(ROOT).as_posix()}


def test_start_leads_on() -> None:
    """The start notebook links to each other notebook and to its note."""
    text = "\n".join(cell.source for cell in cells(START, "markdown")).replace(
        "%20", " "
    )
    for path in set(BOOKS) - {START}:
        assert f"({path.name})" in text
        pages = [p for p, names in notes().items() if f"notebooks/{path.name}" in names]
        assert any(f"(../{page})" in text for page in pages), path.name


def test_check_tells_what_is_stale(
    tmp_path: Path, runner: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--check` names a cell whose output is not as stored, and leaves the file."""
    source = [
        nbformat.v4.new_markdown_cell("# Sum"),
        nbformat.v4.new_code_cell("1 + 1"),
    ]
    path = tmp_path / "sum.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=source), path)
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path)
    assert runner.main([]) == 0
    assert runner.main(["--check", "sum"]) == 0
    text = path.read_text("utf-8").replace('"2"', '"3"')
    path.write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert runner.main(["--check"]) == 1
    assert capsys.readouterr().out == "notebooks/sum.ipynb changed: sum-2\n"
    assert path.read_text("utf-8") == text
    assert json.loads(text)["cells"][1]["id"] == "sum-2"


def test_lab_opens_the_start_notebook() -> None:
    """JupyterLab, as set in the project's environment, opens the start notebook."""
    path = ROOT / ".jupyter" / "jupyter_server_config.json"
    config = json.loads(path.read_text("utf-8"))["LabApp"]
    assert config["default_url"] == f"/lab/tree/{START.relative_to(ROOT).as_posix()}"
