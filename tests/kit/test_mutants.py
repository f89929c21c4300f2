"""Each trap has a mutant of the module that falls into it, and a test that kills it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from patterns._kit.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[2]

# A file for each pattern; in it, parted by `===`: the test that must fail, the text as
# it is, and behind `---` the text as the trap has it.
MUTANTS = sorted(Path(__file__).with_name("mutants").glob("*.txt"))


def mutants():
    """Return the mutants as pytest parameters."""
    for path in MUTANTS:
        folder, _, stem = path.stem.partition(".")
        for block in path.read_text("utf-8").strip().split("\n===\n"):
            test, _, rest = block.partition("\n")
            old, new = rest.split("\n---\n")
            yield pytest.param(f"{folder}/{stem}", test, old, new, id=f"{test}-{stem}")


def test_every_pattern_has_mutants():
    """No pattern is without traps that are tried."""
    assert {path.stem.replace(".", "/") for path in MUTANTS} == {
        pattern.name for pattern in catalogue()
    }


@pytest.mark.parametrize(("name", "test", "old", "new"), list(mutants()))
def test_mutant_dies(name, test, old, new, tmp_path):
    """The named test fails on the module with the trap in it."""
    folder, stem = name.split("/")
    for part in (f"patterns/{folder}", f"tests/{folder}", "tests/vectors"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "patterns/__init__.py").touch()
    module = tmp_path / "patterns" / folder / f"{stem}.py"
    text = module.read_text("utf-8")
    assert text.count(old) == 1
    module.write_text(text.replace(old, new), "utf-8")
    node = f"tests/{folder}/test_{stem}.py::{test}"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir=."]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", node, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1, run.stdout + run.stderr
