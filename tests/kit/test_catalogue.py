"""The catalogue, and what of it goes into the wheel."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from patterns._kit import catalogue as module
from patterns._kit.build_hook import ShipTests
from patterns._kit.catalogue import PACKAGE, Pattern, catalogue


def test_every_file_of_a_folder_is_a_pattern(kit: Any) -> None:
    """Private files and folders are passed over; the order is that of the names."""
    kit.write("patterns/auth/jwt.py", "")
    kit.write("patterns/auth/_private.py", "")
    kit.write("patterns/auth/notes.txt", "")
    kit.write("patterns/py.typed", "")
    names = [pattern.name for pattern in catalogue(kit.package)]
    assert names == ["auth/jwt", "paging/token", "paging/walker"]


def test_a_pattern_is_its_name_and_its_file(kit: Any) -> None:
    """Two readings of one tree give equal patterns."""
    first, second = catalogue(kit.package), catalogue(kit.package)
    assert first == second
    assert set(first) == set(second)
    assert first[0] != first[1]
    assert first[0] != "paging/token"
    assert repr(first[0]) == "Pattern('paging/token')"


def test_a_file_without_any_head_is_still_read(kit: Any) -> None:
    """A file that breaks the rules has empty fields, for the house tests to find."""
    path = kit.write("patterns/paging/empty.py", "x = 1\n")
    empty = Pattern("paging/empty", path)
    assert (empty.promise, empty.doc, empty.requires) == ("", "", ())
    assert (empty.exports, empty.vectors) == ((), ())


def test_the_installed_patterns_are_the_default() -> None:
    """Asked for nothing else, the catalogue is that of the installed package."""
    assert catalogue() == catalogue(PACKAGE)
    with pytest.raises(AttributeError, match="no attribute 'NOTHING'"):
        _ = module.NOTHING  # type: ignore[attr-defined]


def test_the_wheel_gets_the_tests_and_their_vectors(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the tests of patterns are mapped, and only the vectors they name."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    kit.write("tests/paging/test_other.py", "")
    kit.write("tests/vectors/other.json", "")

    def mapped(version: str, kind: str = "force_include") -> dict[str, str]:
        data: dict[str, Any] = {"force_include": {}, "shared_data": {}}
        hook = ShipTests(str(kit.root), {}, None, None, "", "wheel")
        hook.initialize(version, data)
        return data[kind]

    assert mapped("standard") == {
        str(kit.root / "tests/paging/test_walker.py"): (
            "patterns/_kit/tests/paging/test_walker.py"
        ),
        str(kit.root / "tests/vectors/statuses.json"): (
            "patterns/_kit/tests/vectors/statuses.json"
        ),
    }
    assert mapped("editable") == {}
    assert mapped("standard", "shared_data") == {}
    settings = "jupyter/jupyter_server_config.json"
    assert mapped("editable", "shared_data") == {f".{settings}": f"etc/{settings}"}
