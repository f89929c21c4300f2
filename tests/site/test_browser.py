"""The built site in headless Chromium: quiet, self-contained, accessible, copyable.

Needs Debian's Chromium and node; without them the tests skip and say why, unless
`KIT_REQUIRE_BROWSER=1`, as in the site's own build, makes that a failure; so does
`KIT_REQUIRE_RUNTIME=1` for the notebook that runs in the page.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import frontmatter
import pytest
from kit_site.names import destination
from tiny_vault import ROOT, Build

from patterns._kit.catalogue import catalogue

pytestmark = pytest.mark.browser

HERE = Path(__file__).resolve().parent
TOOLS = {"playwright-core": "1.65.1", "axe-core": "4.14.1"}
VIEWS = [("light", 1280), ("dark", 1280), ("light", 375), ("dark", 375)]


def cannot(reason: str) -> None:
    """Skip for want of a tool, or fail where the tool is required."""
    if os.environ.get("KIT_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def program(*names: str) -> str:
    """Return the first of the programs that is installed."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        cannot(f"{names[0]} is not installed")
    return str(found)


def have(folder: Path, name: str, version: str) -> bool:
    """Tell whether the cache has this version of a tool."""
    manifest = folder / "node_modules" / name / "package.json"
    if not manifest.is_file():
        return False
    return bool(json.loads(manifest.read_text(encoding="utf-8"))["version"] == version)


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder with the node tools, fetched by name and version once."""
    folder = ROOT / ".cache" / "browser"
    npm = program("npm")
    if not all(have(folder, *tool) for tool in TOOLS.items()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
        quiet = "--no-save --no-package-lock --no-audit --no-fund --ignore-scripts"
        wanted = [f"{name}@{version}" for name, version in TOOLS.items()]
        done = subprocess.run(
            [npm, "install", *quiet.split(), *wanted],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            cannot(f"npm cannot fetch {', '.join(wanted)}: {done.stderr[-300:]}")
    return folder


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def served(real: Build) -> Iterator[str]:
    """The address of the built site, served as plain files on loopback."""
    handler = partial(_Quiet, directory=str(real.site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def note(state: str) -> str:
    """Return the address of the first note in a state; a question may be one too."""
    for path in sorted(ROOT.glob("docs/[nq]*/*.md")):
        if frontmatter.load(str(path)).get("state") == state:
            return address(path.relative_to(ROOT / "docs").as_posix())
    pytest.fail(f"no note is {state}")


def address(source: str) -> str:
    """Return the address of a page below the site's root."""
    return destination(source, home="").removesuffix("index.html")


def pages() -> dict[str, str]:
    """Return one address of each kind of page."""
    pattern = max(catalogue(), key=lambda pattern: len(pattern.exports))
    books = sorted(path.name for path in ROOT.glob("notebooks/*.ipynb"))
    return {
        "home": "",
        "note": note("growing"),
        "seedling": note("seedling"),
        "notebook": address(f"notebooks/{books[0]}") if books else "",
        "reference": address(f"reference/{pattern.name}.md"),
        "synthesis": address("Synthesis.md"),
        "health": address("Health.md"),
    }


KINDS = ["home", "note", "seedling", "notebook", "reference", "synthesis", "health"]


@pytest.fixture(scope="session")
def seen(
    served: str, tools: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What the browser saw of each kind of page in each scheme and width."""
    order = {
        "base": served,
        "chromium": program("chromium", "chromium-browser"),
        "profile": str(tmp_path_factory.mktemp("profile")),
        "modules": str(tools),
        "pages": pages(),
        "shots": os.environ.get("KIT_SHOTS"),
        "full": False,
    }
    done = subprocess.run(
        [program("node"), str(HERE / "browse.mjs")],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {(page["kind"], page["scheme"], page["width"]): page for page in found}


Seen = dict[tuple[str, str, int], dict[str, Any]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scheme", "width"), VIEWS)
class TestPage:
    """Holds for every kind of page, in both schemes, on a desk and on a phone."""

    def test_asks_no_other_host(
        self, seen: Seen, kind: str, scheme: str, width: int
    ) -> None:
        """The page makes no request to another host, and none fails."""
        page = seen[kind, scheme, width]
        assert page["outside"] == []
        assert page["failed"] == []

    def test_is_quiet(self, seen: Seen, kind: str, scheme: str, width: int) -> None:
        """Nothing is printed to the console."""
        assert seen[kind, scheme, width]["console"] == []

    def test_is_accessible(
        self, seen: Seen, kind: str, scheme: str, width: int
    ) -> None:
        """The axe rules of WCAG 2.2 AA and of good practice find nothing."""
        page = seen[kind, scheme, width]
        assert page["axe"] == []
        assert page["rules"] > 20

    def test_fits(self, seen: Seen, kind: str, scheme: str, width: int) -> None:
        """The page does not scroll sideways, and no wiki link is left as text."""
        page = seen[kind, scheme, width]
        assert page["overflow"] <= 0
        assert page["raw"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_both_schemes(seen: Seen, kind: str) -> None:
    """The page follows the system's light and dark."""
    light, dark = (seen[kind, scheme, 1280] for scheme in ("light", "dark"))
    assert light["background"] != dark["background"]


def test_links_of_home(seen: Seen, served: str) -> None:
    """The home leads to every note of the map and to a notebook."""
    links = set(seen["home", "light", 1280]["links"])
    for path in ROOT.glob("docs/notes/*.md"):
        assert served + address(path.relative_to(ROOT / "docs").as_posix()) in links
    assert any(link.startswith(f"{served}notebooks/") for link in links)


@pytest.mark.parametrize("kind", ["note", "reference"])
def test_copy_button(seen: Seen, served: str, kind: str) -> None:
    """Enter on the button puts exactly the module's text on the clipboard."""
    copied = seen[kind, "light", 1280]["copied"]
    name = copied["from"].partition("m/")[2].removesuffix(".py")
    pattern = next(each for each in catalogue() if each.name == name)
    assert copied["text"] == pattern.text
    assert copied["said"] == "Copied"


@pytest.mark.parametrize("kind", ["note", "reference"])
def test_copy_button_without_clipboard(seen: Seen, kind: str) -> None:
    """Where the clipboard is closed, the text stands selected, ready for the keys."""
    fallback = seen[kind, "light", 1280]["fallback"]
    copied = seen[kind, "light", 1280]["copied"]
    assert fallback["selected"] == copied["text"]
    assert fallback["said"].startswith("Selected")


def test_notebook_runs_in_the_page(seen: Seen) -> None:
    """Every cell runs in the browser's own Python, and prints what is stored."""
    said = seen["notebook", "light", 1280].get("ran")
    if said is None and os.environ.get("KIT_REQUIRE_RUNTIME") != "1":
        pytest.skip("no runtime: uv run python docs/_site/runtime.py fetches it")
    assert re.fullmatch(r"Ran \d+ cells; every output is as stored\.", str(said))
