"""Fetch the Python that runs a notebook in the reader's browser.

    uv run python docs/_site/runtime.py

puts Pyodide (from npm, by name and version) and one archive with what the kit needs
(from PyPI, pure Python) into `.cache/runtime`. When that folder is there the site
publishes it, with the kit itself as it then is, and notebook pages get a Run button;
without it they have none. Nothing is committed, and the reader's browser asks no other
host.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from kit_site.archive import below, packed

PYODIDE = "314.0.7"
PYTHON = "3.14"
FILES = (
    "pyodide.mjs",
    "pyodide.asm.mjs",
    "pyodide.asm.wasm",
    "python_stdlib.zip",
    "pyodide-lock.json",
)
ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"


def run(*command: str, cwd: Path = ROOT) -> None:
    """Run a command, and let its failure be ours."""
    subprocess.run(command, cwd=cwd, check=True)  # noqa: S603, all are ours


def pyodide(folder: Path) -> None:
    """Put Pyodide's own files into `folder`."""
    work = CACHE / "npm-runtime"
    work.mkdir(parents=True, exist_ok=True)
    (work / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    quiet = "--no-save --no-package-lock --no-audit --no-fund --ignore-scripts"
    run("npm", "install", *quiet.split(), f"pyodide@{PYODIDE}", cwd=work)
    folder.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(work / "node_modules" / "pyodide" / name, folder / name)


def packages(archive: Path) -> None:
    """Put what the kit needs into one archive."""
    target = CACHE / "runtime-packages"
    shutil.rmtree(target, ignore_errors=True)
    pure = f"--no-build --python-version {PYTHON} --target {target}"
    run("uv", "pip", "install", "--quiet", *pure.split(), "httpx>=0.28.1")
    native = [path.name for path in target.rglob("*.so")]
    if native:
        sys.exit(f"these are not pure Python: {', '.join(native)}")
    archive.write_bytes(packed(below(target, target, "*.py", "*.pem")))


def main() -> None:
    """Fetch both afresh."""
    folder = CACHE / "runtime"
    shutil.rmtree(folder, ignore_errors=True)
    pyodide(folder / "pyodide")
    packages(folder / "needs.zip")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder.relative_to(ROOT)}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
