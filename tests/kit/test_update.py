"""`patterns status`, `diff`, `update` and `adopt`: the life of a copy."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

NEW = ("split()[-1]", "rsplit()[-1]")  # what the next release changes


@pytest.fixture
def copy(run: Run, project: Path) -> Path:
    """A fresh copy of `paging/walker`."""
    run("add", "paging/walker", "--to", "lib")
    return project / "lib/walker.py"


def edit(path: Path, old: str, new: str) -> None:
    """Replace `old`, which must be there."""
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new).encode())


def state(run: Run, path: str = "lib/walker.py") -> tuple[str, str]:
    """Return state and detail of one file."""
    [found] = run("status", path, "--json").json["files"]
    return found["state"], found["detail"]


# states


def test_pristine(run: Run, copy: Path) -> None:
    """A copy nobody touched is pristine, and the status is 0."""
    ran = run("status")
    assert ran.status == 0
    assert ran.out == "pristine   lib/walker.py  paging/walker 0.1.0\n"


def test_edited_is_in_order(run: Run, copy: Path) -> None:
    """Editing is what a copy is for: the status stays 0."""
    edit(copy, "Walk to the end.", "Walk on.")
    ran = run("status")
    assert ran.status == 0
    assert ran.out.startswith("edited     lib/walker.py")


@pytest.mark.parametrize("edited", [False, True])
def test_outdated(run: Run, kit: Any, copy: Path, edited: bool) -> None:
    """A copy of an older text is outdated, and says whether it has edits."""
    if edited:
        edit(copy, "Walk to the end.", "Walk on.")
    kit.release_with(*NEW)
    ran = run("status", "--json")
    assert ran.status == 1
    [found] = ran.json["files"]
    assert found["state"] == "outdated"
    assert found["edited"] is edited
    assert found["detail"].startswith("changed in 0.2.0")


def test_unmerged(run: Run, copy: Path) -> None:
    """One marker left is enough."""
    edit(copy, "import httpx\n", "import httpx\n>>>>>>> new\n")
    assert run("status").status == 1
    assert state(run) == ("unmerged", "conflict markers are left")


def test_newer_than_installed(run: Run, copy: Path) -> None:
    """A copy from a later release is unknown, and says what to upgrade."""
    line = copy.read_text("utf-8").partition("\n")[0]
    edit(copy, line, line.replace("0.1.0", "0.10.0")[:-16] + "0" * 16)
    assert state(run) == (
        "unknown",
        "copied from 0.10.0, newer than the installed 0.1.0:"
        " upgrade api-integration-patterns",
    )
    assert run("update", "lib/walker.py").status == 1


def test_a_base_no_release_had(run: Run, copy: Path) -> None:
    """A hash that is in no release cannot be merged from."""
    line = copy.read_text("utf-8").partition("\n")[0]
    edit(copy, line, line[:-16] + "0" * 16)
    found, detail = state(run)
    assert found == "unknown"
    assert "is in no release up to 0.1.0" in detail


def test_another_distributions_copy(run: Run, copy: Path) -> None:
    """A header of the same form by another kit is not ours to judge."""
    edit(copy, "# api-integration-patterns", "# other-kit")
    assert state(run) == ("unknown", "copied from other-kit")


def test_no_header(run: Run, kit: Any, project: Path, copy: Path) -> None:
    """A named file is looked at even without the line; a folder's is passed over."""
    edit(copy, copy.read_text("utf-8").partition("\n")[0] + "\n", "")
    found, detail = state(run)
    assert found == "unknown"
    assert "is paging/walker 0.1.0 without its line: `patterns adopt`" in detail
    assert run("status").out == "no copies of patterns here\n"
    (project / "own.py").write_text("x = 1\n", "utf-8")
    assert state(run, "own.py") == ("unknown", "no copy of a pattern")


def test_a_pattern_that_is_gone(run: Run, kit: Any, copy: Path) -> None:
    """A copy of a pattern that was removed is in order and is told so."""
    kit.release("0.2.0")
    (kit.package / "paging/walker.py").unlink()
    assert state(run) == ("pristine", "paging/walker is not in 0.2.0 any more")
    assert run("update", "lib/walker.py").status == 0


def test_status_passes_over_what_is_no_source(
    run: Run, project: Path, copy: Path
) -> None:
    """Environments, caches and hidden folders are not searched."""
    for folder in (".hidden", "__pycache__", "node_modules", "venv/lib"):
        (project / folder).mkdir(parents=True)
        (project / folder / "walker.py").write_bytes(copy.read_bytes())
    (project / "venv/pyvenv.cfg").write_text("", "utf-8")
    files = run("status", "--json").json["files"]
    assert [f["path"] for f in files] == ["lib/walker.py"]


def test_status_of_a_link_and_of_bytes(run: Run, project: Path, copy: Path) -> None:
    """What is no plain text file is unknown, with the reason."""
    (project / "link.py").symlink_to(copy)
    (project / "bytes.py").write_bytes(b"\xff")
    assert state(run, "link.py")[1].startswith("a symbolic link")
    assert state(run, "bytes.py") == ("unknown", "not UTF-8 (byte 0)")


def test_newlines_and_byte_order_mark_are_no_edit(run: Run, copy: Path) -> None:
    """A checkout that turns newlines into CRLF, or adds a mark, leaves it pristine."""
    copy.write_bytes(b"\xef\xbb\xbf" + copy.read_bytes().replace(b"\n", b"\r\n"))
    assert state(run) == ("pristine", "")
    assert "lib/walker.py" in run("status").out


# update


def test_update_of_a_current_copy_changes_nothing(run: Run, copy: Path) -> None:
    """With nothing new, edits or not, the file is left alone."""
    edit(copy, "Walk to the end.", "Walk on.")
    before = copy.read_bytes()
    assert run("update", "lib/walker.py").out == "unchanged  lib/walker.py\n"
    assert copy.read_bytes() == before


def test_update_fast_forwards(run: Run, kit: Any, copy: Path) -> None:
    """Without edits the copy becomes what `add` would write."""
    kit.release_with(*NEW)
    ran = run("update", "lib/walker.py")
    assert (ran.status, ran.out) == (
        0,
        "update     lib/walker.py  (0.1.0 to 0.2.0)\n",
    )
    updated = copy.read_bytes()
    copy.unlink()
    run("add", "paging/walker", "--to", "lib")
    assert copy.read_bytes() == updated


def test_update_keeps_edits(run: Run, kit: Any, copy: Path) -> None:
    """Both changes are in the merged file, and it counts as edited from now on."""
    edit(copy, "Walk to the end.", "Walk on.")
    kit.release_with(*NEW)
    assert run("update", "lib/walker.py").out.startswith("merge ")
    text = copy.read_text("utf-8")
    assert "Walk on." in text
    assert "rsplit" in text
    assert " 0.2.0: " in text.partition("\n")[0]
    assert state(run) == ("edited", "")


def test_update_marks_conflicts_and_waits(run: Run, kit: Any, copy: Path) -> None:
    """All three texts are shown; a second update refuses until they are resolved."""
    edit(copy, "split()[-1]", "partition(' ')[2]")
    kit.release_with(*NEW)
    ran = run("update", "lib/walker.py")
    assert ran.status == 3
    assert "conflict   lib/walker.py  (0.1.0 to 0.2.0, 1 to resolve)" in ran.err
    marked = copy.read_text("utf-8")
    assert (
        "<<<<<<< yours\n    return text.partition(' ')[2]\n"
        "||||||| base 0.1.0\n    return text.split()[-1]\n"
        "=======\n    return text.rsplit()[-1]\n"
        ">>>>>>> new 0.2.0\n"
    ) in marked
    again = run("update", "lib/walker.py")
    assert again.status == 3
    assert "unmerged" in again.err
    assert copy.read_text("utf-8") == marked
    assert run("diff", "lib/walker.py").status == 1
    body = marked.partition("<<<<<<<")[0] + "    return text\n"
    copy.write_text(body, "utf-8")
    assert state(run) == ("edited", "")


def test_update_plans_all_then_writes_all(
    run: Run, kit: Any, project: Path, copy: Path
) -> None:
    """One file that is no copy stops the update of the others."""
    kit.release_with(*NEW)
    (project / "own.py").write_text("x = 1\n", "utf-8")
    before = copy.read_bytes()
    ran = run("update", "lib/walker.py", "own.py")
    assert ran.status == 1
    assert "nothing was written" in ran.err
    assert copy.read_bytes() == before


def test_update_dry_run(run: Run, kit: Any, copy: Path) -> None:
    """The merge is computed and told, and the file stays."""
    edit(copy, "split()[-1]", "partition(' ')[2]")
    kit.release_with(*NEW)
    before = copy.read_bytes()
    ran = run("update", "lib/walker.py", "--dry-run", "--json")
    assert ran.status == 3
    assert ran.json["dry_run"] is True
    assert ran.json["files"][0]["action"] == "conflict"
    assert copy.read_bytes() == before


def test_update_keeps_newlines_mark_and_mode(run: Run, kit: Any, copy: Path) -> None:
    """CRLF, the byte order mark and the file's mode outlive a merge."""
    edit(copy, "Walk to the end.", "Walk on.")
    copy.write_bytes(b"\xef\xbb\xbf" + copy.read_bytes().replace(b"\n", b"\r\n"))
    copy.chmod(0o751)
    kit.release_with(*NEW)
    assert run("update", "lib/walker.py").status == 0
    raw = copy.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf# api-integration-patterns 0.2.0: ")
    assert b"rsplit" in raw
    assert raw.count(b"\r\n") == raw.count(b"\n")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o751


def test_update_takes_a_folder(run: Run, kit: Any, copy: Path) -> None:
    """A folder stands for the copies in it."""
    kit.release_with(*NEW)
    assert run("update", ".").out.startswith("update     lib/walker.py")


def test_update_over_several_releases(run: Run, kit: Any, copy: Path) -> None:
    """The base is found in the history however many releases lie between."""
    edit(copy, "Walk to the end.", "Walk on.")
    kit.release_with(*NEW)
    kit.release("0.3.0")
    kit.edit("patterns/paging/walker.py", "Return the last word.", "Take the last.")
    assert run("update", "lib/walker.py").status == 0
    text = copy.read_text("utf-8")
    assert all(part in text for part in ("Walk on.", "rsplit", "Take the last."))


@pytest.mark.parametrize("edited", [False, True])
def test_a_copy_on_httpx2_stays_on_it(
    run: Run, kit: Any, project: Path, edited: bool
) -> None:
    """Base and new are put on httpx2 too: the variant is neither an edit nor lost."""
    run("add", "paging/walker", "--to", "lib", "--http", "httpx2")
    copy = project / "lib/walker.py"
    if edited:
        edit(copy, "Walk to the end.", "Walk on.")
    kit.release_with(*NEW)
    theirs = run("diff", "lib/walker.py", "--theirs").out
    assert "httpx" not in theirs
    assert bool(run("diff", "lib/walker.py", "--mine").out) is edited
    assert run("update", "lib/walker.py").status == 0
    text = copy.read_text("utf-8")
    assert "import httpx2 as httpx\n" in text
    assert '"httpx2>=2.16"' in text
    assert "rsplit" in text
    assert state(run) == ("edited" if edited else "pristine", "")


def test_a_copied_test_follows_its_release(run: Run, kit: Any, project: Path) -> None:
    """The import line stays, new lines arrive, new vectors come along."""
    run("add", "paging/walker", "--to", "src/acme", "--tests", "tests")
    kit.release("0.2.0")
    kit.edit("tests/paging/test_walker.py", "comes back", "is handed back")
    kit.edit(
        "tests/paging/test_walker.py",
        '@pytest.mark.parametrize("status", vectors("statuses.json"))',
        '@pytest.mark.parametrize("status", vectors("statuses.json")'
        ' + vectors("more.json"))',
    )
    kit.write("tests/vectors/more.json", "[500]\n")
    kit.write("tests/vectors/statuses.json", "[200]\n")
    vectors = project / "tests/vectors/statuses.json"
    vectors.write_text("[201]\n", "utf-8")
    ran = run("update", "tests/test_walker.py")
    assert ran.status == 0
    text = (project / "tests/test_walker.py").read_text("utf-8")
    assert "from acme import walker\n" in text
    assert "is handed back" in text
    assert (project / "tests/vectors/more.json").read_text("utf-8") == "[500]\n"
    assert vectors.read_text("utf-8") == "[201]\n"
    assert "your own version is kept" in ran.out


# diff


def test_diff_has_three_sides(run: Run, kit: Any, copy: Path) -> None:
    """Yours to new, base to yours, base to new; the header is not part of it."""
    edit(copy, "Walk to the end.", "Walk on.")
    kit.release_with(*NEW)

    def changed(*side: str) -> list[str]:
        ran = run("diff", "lib/walker.py", *side)
        assert ran.status == 1
        lines = ran.out.splitlines()
        return [line for line in lines[2:] if line[0] in "+-"]

    mine = ['-"""Walk to the end."""', '+"""Walk on."""']
    theirs = ["-    return text.split()[-1]", "+    return text.rsplit()[-1]"]
    assert changed("--mine") == mine
    assert changed("--theirs") == theirs
    back = ['-"""Walk on."""', '+"""Walk to the end."""']
    assert changed() == [*back, *theirs]


def test_diff_names_its_sides(run: Run, kit: Any, copy: Path) -> None:
    """The first two lines say which texts are compared."""
    kit.release_with(*NEW)
    head = run("diff", "lib/walker.py").out.splitlines()[:2]
    assert head == ["--- lib/walker.py (yours)", "+++ lib/walker.py (new 0.2.0)"]


def test_diff_of_the_same_is_nothing(run: Run, copy: Path) -> None:
    """No difference: no output, exit status 0."""
    ran = run("diff", "lib/walker.py")
    assert (ran.status, ran.out) == (0, "")


def test_diff_shows_a_missing_last_newline(run: Run, copy: Path) -> None:
    """The diff stays readable where the last line has no newline."""
    copy.write_bytes(copy.read_bytes()[:-1])
    assert "\\ No newline at end of file\n" in run("diff", "lib/walker.py").out


def test_diff_json(run: Run, kit: Any, copy: Path) -> None:
    """The object has the side and, for each file, its state and its diff."""
    edit(copy, "Walk to the end.", "Walk on.")
    found = run("diff", "lib/walker.py", "--mine", "--json").json
    assert found["side"] == "mine"
    assert found["files"][0]["state"] == "edited"
    assert '+"""Walk on."""\n' in found["files"][0]["diff"]


def test_diff_of_what_is_no_copy(run: Run, project: Path) -> None:
    """A file that cannot be compared is told, with exit status 1."""
    (project / "own.py").write_text("x = 1\n", "utf-8")
    ran = run("diff", "own.py")
    assert ran.status == 1
    assert "no copy of a pattern" in ran.err


# adopt


def test_adopt_writes_the_line(run: Run, kit: Any, project: Path, copy: Path) -> None:
    """A hand-copied file becomes what `add` would have written."""
    (project / "hand.py").write_bytes((kit.package / "paging/walker.py").read_bytes())
    ran = run("adopt", "hand.py")
    assert (ran.status, ran.out) == (0, "adopt      hand.py  (as 0.1.0)\n")
    assert (project / "hand.py").read_bytes() == copy.read_bytes()


def test_adopt_knows_older_texts(run: Run, kit: Any, project: Path) -> None:
    """A copy of an earlier release is recognised, and can then be updated."""
    (project / "hand.py").write_bytes((kit.package / "paging/walker.py").read_bytes())
    kit.release_with(*NEW)
    assert "as 0.1.0" in run("adopt", "hand.py").out
    assert state(run, "hand.py")[0] == "outdated"
    assert run("update", "hand.py").status == 0
    assert "rsplit" in (project / "hand.py").read_text("utf-8")


def test_adopt_knows_fitted_texts(run: Run, kit: Any, project: Path) -> None:
    """A copy on httpx2, or a test with its own import line, is recognised."""
    run(
        *("add", "paging/walker", "--to", "lib", "--tests", "tests"),
        *("--http", "httpx2"),
    )
    for path in ("lib/walker.py", "tests/test_walker.py"):
        file = project / path
        whole = file.read_bytes()
        file.write_bytes(whole.partition(b"\n")[2])
        assert run("adopt", path).status == 0
        assert file.read_bytes() == whole


def test_adopt_refuses_what_it_does_not_know(run: Run, kit: Any, project: Path) -> None:
    """An edited hand copy has no known base; then none of the files is written."""
    source = (kit.package / "paging/walker.py").read_text("utf-8")
    (project / "hand.py").write_text(source, "utf-8")
    (project / "mine.py").write_text(source + "# mine\n", "utf-8")
    ran = run("adopt", "hand.py", "mine.py")
    assert ran.status == 1
    assert "its text is no released pattern: adopt before you edit" in ran.err
    assert (project / "hand.py").read_text("utf-8") == source


def test_adopt_of_a_copy(run: Run, copy: Path) -> None:
    """A file that has the line keeps it."""
    assert run("adopt", "lib/walker.py").out == (
        "unchanged  lib/walker.py  (has its line already)\n"
    )
