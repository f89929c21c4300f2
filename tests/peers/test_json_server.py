"""The paginator against json-server from npm: a Link header in one major, a body link
in the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

POSTS = [{"id": str(n), "title": f"post {n}"} for n in range(42)]


@pytest.fixture(scope="module")
def start(
    launch: Callable[..., str],
    node: str,
    npm_package: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], str]:
    """Return a function that starts a release of json-server."""

    def started(version: str, program: str) -> str:
        data = tmp_path_factory.mktemp("json-server") / "db.json"
        data.write_text(json.dumps({"posts": POSTS}), encoding="utf-8")
        folder = npm_package(f"json-server@{version}")
        path = folder / "node_modules" / "json-server" / "lib" / program
        options = ["--host", "127.0.0.1", "--port", "{port}"]
        return launch(node, path, *options, data, cwd=data.parent)

    return started


@pytest.fixture(scope="module")
def version_0(start: Callable[[str, str], str]) -> str:
    """Return the address of json-server 0.17, which answers with a Link header."""
    return start("0.17.4", "cli/bin.js")


@pytest.fixture(scope="module")
def version_1(start: Callable[[str, str], str]) -> str:
    """Return the address of json-server 1.0, which puts its pages into the body."""
    return start("1.0.0-beta.15", "bin.js")


def test_link_header(walker: Any, version_0: str) -> None:
    """The Link header leads through all pages."""
    url = f"{version_0}/posts?_page=1&_limit=10"
    assert walker.walk(url, walker.paginator.LinkHeader()).items == POSTS


@pytest.mark.parametrize("concurrency", [1, 3])
def test_page_numbers(walker: Any, version_0: str, concurrency: int) -> None:
    """Counted pages end at the first empty one, one at a time or three."""
    style = walker.paginator.PageNumber("_page", size=10, size_param="_limit")
    walked = walker.walk(f"{version_0}/posts", style, concurrency=concurrency)
    assert walked.items == POSTS


@pytest.mark.parametrize("concurrency", [1, 4])
def test_offsets(walker: Any, version_0: str, concurrency: int) -> None:
    """Offsets end at the total in a header, one page at a time or four."""
    style = walker.paginator.Offset(
        limit=10,
        total=lambda response: int(response.headers["x-total-count"]),
        param="_start",
        limit_param="_limit",
    )
    walked = walker.walk(f"{version_0}/posts", style, concurrency=concurrency)
    assert walked.items == POSTS


def test_page_number_in_the_body(walker: Any, version_1: str) -> None:
    """The number of the next page in the body is a cursor; null is the end."""
    url = f"{version_1}/posts?_page=1&_per_page=10"
    style = walker.paginator.Cursor("next", param="_page")
    walked = walker.walk(url, style, items="data", take=25)
    rest = walker.walk(url, style, items="data", resume=walked.checkpoint)
    assert walked.items + rest.items == POSTS


@pytest.mark.parametrize("concurrency", [1, 4])
def test_count_of_pages_in_the_body(
    walker: Any, version_1: str, concurrency: int
) -> None:
    """A count of pages in the body ends the walk without a request for an empty one."""
    style = walker.paginator.PageNumber(
        "_page", size=10, size_param="_per_page", pages="pages"
    )
    pages: list[Any] = []
    walked = walker.walk(
        f"{version_1}/posts",
        style,
        items="data",
        concurrency=concurrency,
        on_page=pages.append,
    )
    assert walked.items == POSTS
    assert [len(page.items) for page in pages] == [10, 10, 10, 10, 2]
