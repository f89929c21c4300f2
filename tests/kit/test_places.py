"""How a folder is imported: the rules at the head of places.py, one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from patterns._kit.header import Refusal
from patterns._kit.places import import_line, import_name


def make(root: Path, *paths: str) -> None:
    """Create empty files."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("", "utf-8")


@pytest.mark.parametrize(
    ("files", "folder", "name"),
    [
        # src layout, with and without packages on the way
        (["pyproject.toml"], "src/acme/integrations", "acme.integrations"),
        (
            ["src/acme/integrations/__init__.py"],
            "src/acme/integrations",
            "acme.integrations",
        ),
        (["pyproject.toml"], "src", ""),
        (["pyproject.toml"], "services/a/src/acme", "acme"),
        # src that is itself a package
        (["pyproject.toml", "src/__init__.py"], "src/acme", "src.acme"),
        # regular package
        (["acme/__init__.py", "acme/net/__init__.py"], "acme/net", "acme.net"),
        (["acme/__init__.py"], "acme/net", "acme.net"),
        (["backend/acme/__init__.py"], "backend/acme", "acme"),
        # namespace package below the nearest project
        (["pyproject.toml"], "acme/net", "acme.net"),
        (["services/a/setup.py"], "services/a/acme/net", "acme.net"),
        # the current folder
        ([], "net", "net"),
        ([], ".", ""),
    ],
)
def test_import_name(tmp_path: Path, files: list[str], folder: str, name: str) -> None:
    """Each layout gives the name by which Python would import it."""
    make(tmp_path, *files)
    assert import_name(tmp_path / folder, cwd=tmp_path) == name


def test_a_current_folder_that_is_a_package(tmp_path: Path) -> None:
    """Standing inside a package, the name still starts at its top."""
    make(tmp_path, "setup.cfg", "acme/__init__.py")
    assert import_name(tmp_path / "acme/net", cwd=tmp_path / "acme") == "acme.net"


def test_a_folder_outside_of_everything_is_refused(tmp_path: Path) -> None:
    """Where no rule applies there is no guess."""
    (tmp_path / "here").mkdir()
    with pytest.raises(Refusal, match="cannot tell how"):
        import_name(tmp_path / "there", cwd=tmp_path / "here")


def test_a_folder_that_is_no_identifier_is_refused(tmp_path: Path) -> None:
    """`my-app` cannot stand in an import line."""
    with pytest.raises(Refusal, match="'my-app' is no identifier"):
        import_name(tmp_path / "my-app", cwd=tmp_path)


@pytest.mark.parametrize(
    ("files", "to", "tests", "line"),
    [
        ([], "lib", "lib", "import walker"),
        (["lib/__init__.py"], "lib", "lib", "from lib import walker"),
        ([], "lib", "tests", "from lib import walker"),
        ([], ".", "tests", "import walker"),
        ([], "src/acme/net", "tests", "from acme.net import walker"),
    ],
)
def test_import_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: list[str],
    to: str,
    tests: str,
    line: str,
) -> None:
    """A test beside its module imports it bare, any other by its folder's name."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path, *files)
    assert import_line("walker", Path(to), Path(tests)) == line
