"""Each trap has a mutant of the module that falls into it, and a test that kills it."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
            mutant = f"{folder}/{stem}", test, old, new
            yield pytest.param(mutant, id=f"{test}-{stem}")


def test_every_pattern_has_mutants():
    """No pattern is without traps that are tried."""
    assert {path.stem.replace(".", "/") for path in MUTANTS} == {
        pattern.name for pattern in catalogue()
    }


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """Return the outcomes to come, by test; as many runs at once as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wanted = [
            item
            for item in request.session.items
            if item.name.startswith("test_mutant")
        ]
        yield {
            item.callspec.id: pool.submit(
                run, *item.callspec.params["mutant"], tmp_path_factory.mktemp("mutant")
            )
            for item in wanted
        }
        pool.shutdown(cancel_futures=True)


def run(name, test, old, new, place):
    """Run the named test on the module with the trap in it."""
    folder, stem = name.split("/")
    for part in (f"patterns/{folder}", f"tests/{folder}", "tests/vectors"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, place / part, ignore=skipped)
    (place / "patterns/__init__.py").touch()
    module = place / "patterns" / folder / f"{stem}.py"
    text = module.read_text("utf-8")
    assert text.count(old) == 1, f"{name} does not have, or not once: {old}"
    module.write_text(text.replace(old, new), "utf-8")
    node = f"tests/{folder}/test_{stem}.py::{test}"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir=."]
    options.append("--assert=plain")  # nobody reads why it dies
    return subprocess.run(
        [sys.executable, "-m", "pytest", node, *options],
        cwd=place,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("mutant", list(mutants()))
def test_mutant_dies(mutant, runs, request):
    """The named test fails on the module with the trap in it."""
    done = runs[request.node.callspec.id].result()
    assert done.returncode == 1, done.stdout + done.stderr
