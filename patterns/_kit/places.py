# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""Where a copy goes: the import name of a folder, and folders that are refused.

The import name of a folder is worked out from the file system alone, by the first
of these rules that applies. "Above" means the folder itself or one that contains it.

1. src layout. There is a folder `src` above without an `__init__.py`: the name is
   the path below the nearest such folder (`src/acme/integrations` is
   `acme.integrations`, with or without `__init__.py` files on the way).
2. Regular package. There is an `__init__.py` above, inside the project: the name
   starts at the topmost folder of that chain of packages.
3. Namespace package. Otherwise the name is the path below the project's folder:
   the nearest one above that has a pyproject.toml, setup.py, setup.cfg or .git, or
   is the current folder (whichever comes first; a current folder that is itself a
   package does not count).
4. A folder under none of these has no name that could be known: refused.

A test that is copied into the same folder as its module, which is no package, is
the one exception: it says `import paginator`, because pytest puts a test's own folder
on the path and so does Python for a script.
"""

from __future__ import annotations

from pathlib import Path

from patterns._kit.header import Refusal

__all__ = ["check_destination", "import_line", "import_name"]

_PROJECT = ("pyproject.toml", "setup.py", "setup.cfg", ".git")


def import_name(folder: Path, *, cwd: Path | None = None) -> str:
    """Return the dotted import name of `folder`; empty if it is itself on the path.

    Raises:
        Refusal: if no rule gives a name, or a part of it is no identifier.
    """
    folder = folder.resolve()
    parts = folder.relative_to(_path_entry(folder, (cwd or Path.cwd()).resolve())).parts
    for part in parts:
        if not part.isidentifier():
            raise Refusal(f"{folder} cannot be imported: {part!r} is no identifier")
    return ".".join(parts)


def _path_entry(folder: Path, cwd: Path) -> Path:
    """Return the folder that has to be on `sys.path` for `folder` to be imported."""
    above = [folder, *folder.parents]
    here = cwd if not _is_package(cwd) else None
    project = next((f for f in above if f == here or _is_project(f)), None)
    inside = above[: above.index(project)] if project else above
    for candidate in above:
        if candidate.name == "src" and not _is_package(candidate):
            return candidate
    packages = [f for f in inside if _is_package(f)]
    if packages:
        top = packages[0]
        while top.parent in packages:
            top = top.parent
        return top.parent
    if project is None:
        raise Refusal(
            f"cannot tell how {folder} is imported: run this from the folder that is"
            " on the path, or in a project with a pyproject.toml"
        )
    return project


def _is_project(folder: Path) -> bool:
    return any((folder / name).exists() for name in _PROJECT)


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def import_line(stem: str, to: Path, tests: Path) -> str:
    """Return the line by which a test in `tests` imports the module `stem` in `to`."""
    together = to.resolve() == tests.resolve()
    package = "" if together and not _is_package(to) else import_name(to)
    return f"from {package} import {stem}" if package else f"import {stem}"


def check_destination(folder: Path) -> None:
    """Refuse a folder that would be imported as top-level `patterns`, or is a file.

    With an `__init__.py`, such a folder hides the installed package and breaks the
    `patterns` command there; without one, the installed package hides the copies.
    """
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise Refusal(f"{part} is not a folder")
    try:
        name = import_name(folder)
    except Refusal:
        # It has no dotted name: still, a script beside it could import it.
        name = folder.resolve().name
    if name.partition(".")[0] == "patterns":
        raise Refusal(
            f"{folder} would be imported as `{name}`, in the way of the installed"
            " package `patterns`: choose another folder, such as"
            " --to src/acme/integrations"
        )
