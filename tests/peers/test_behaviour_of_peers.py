"""What releases of other clients do where ours stops: the claims of the note.

Each test states what was seen of one release. When a later one does better, its test
says so and what to revise; nothing of ours is broken then.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from claims import state
from hostile import Astray, Circle

pytestmark = pytest.mark.peer_behaviour
OCTOKIT = ("@octokit/core@7.0.6", "@octokit/plugin-paginate-rest@16.0.0")
CAP = 60  # pages after which a walk counts as endless


def dlt(base: str, paginator: Any, **options: Any) -> Iterable[Any]:
    """Return the pages that dlt's REST client walks."""
    from dlt.sources.helpers.rest_client import RESTClient

    client = RESTClient(base, paginator=paginator, data_selector="items", **options)
    return client.paginate("/")


@pytest.mark.parametrize("style", ["HeaderLinkPaginator", "JSONLinkPaginator"])
def test_dlt_sends_its_token_to_another_origin(
    serve: Callable[[Any], str], style: str
) -> None:
    """dlt follows a next address to another origin with its credentials."""
    from dlt.sources.helpers.rest_client import auth, paginators

    thief = Astray(({"items": [2]}, None))
    theirs = serve(thief)
    ours = Astray(({"items": [1], "next": f"{theirs}/2"}, f'<{theirs}/2>; rel="next"'))
    paginator = {
        "HeaderLinkPaginator": paginators.HeaderLinkPaginator,
        "JSONLinkPaginator": lambda: paginators.JSONLinkPaginator("next"),
    }[style]()
    token = auth.BearerTokenAuth("s3cret")
    headers = {"x-api-key": "k3y"}
    list(dlt(serve(ours), paginator, auth=token, headers=headers))
    sent = thief.requests[0] if thief.requests else {}
    leaked = (sent.get("authorization"), sent.get("x-api-key"))
    claim = f"its {style} sends the bearer token and the headers to another origin"
    state(leaked == ("Bearer s3cret", "k3y"), "dlt 1.31.0", claim)


@pytest.mark.parametrize("tokens", ["A", "AB"])
def test_dlt_goes_round_for_ever(serve: Callable[[Any], str], tokens: str) -> None:
    """dlt walks a circle of cursors until somebody stops it."""
    from dlt.sources.helpers.rest_client import paginators

    circle = Circle(tokens)
    paginator = paginators.JSONResponseCursorPaginator("next", cursor_param="cursor")
    pages = dlt(serve(circle), paginator)
    walked = sum(1 for _ in itertools.islice(pages, CAP))
    claim = f"it walks a circle of {len(tokens)} for {CAP} pages and more"
    state(walked == CAP, "dlt 1.31.0", claim)


@pytest.mark.parametrize(("tokens", "endless"), [("A", False), ("AB", True)])
def test_botocore_sees_only_the_last_token(
    serve: Callable[[Any], str], tokens: str, endless: bool
) -> None:
    """botocore stops where a token comes twice in a row, not where two alternate."""
    from botocore.exceptions import PaginationError
    from botocore.paginate import Paginator

    base = serve(Circle(tokens))
    config = {"input_token": "at", "output_token": "next", "result_key": "items"}
    walked, stopped = 0, False
    with httpx.Client(base_url=base, trust_env=False) as client:
        pages = Paginator(lambda **at: client.get("/", params=at).json(), config, None)
        try:
            for _ in itertools.islice(pages.paginate(), CAP):
                walked += 1
        except PaginationError:
            stopped = True
    holds = walked == CAP if endless else stopped
    claim = f"it {'walks on in' if endless else 'stops at'} a circle of {len(tokens)}"
    state(holds, "botocore 1.44.5", claim)


def test_octokit_sends_its_token_to_another_origin(
    serve: Callable[[Any], str], node: str, npm_package: Callable[..., Path]
) -> None:
    """Octokit follows a next address to another origin with its token."""
    thief = Astray(({"items": [2]}, None))
    theirs = serve(thief)
    ours = serve(Astray(({"items": [1]}, f'<{theirs}/2>; rel="next"')))
    folder = npm_package(*OCTOKIT)
    script = Path(__file__).with_name("octokit.mjs")
    env = {**os.environ, "OCTOKIT_TOKEN": "s3cret"}
    subprocess.run([node, script, folder, ours, "/"], env=env, check=True)
    sent = thief.requests[0] if thief.requests else {}
    claim = "it sends its token to another origin"
    leaked = sent.get("authorization") == "token s3cret"
    state(leaked, OCTOKIT[1], claim, installed=OCTOKIT[1])


def test_httpx_misreads_a_link_header() -> None:
    """httpx's own parser loses a next link behind a title that holds a semicolon."""
    value = '<http://example.com/q>; title="previous; chapter"; rel="next"'
    links = httpx.Response(200, headers={"link": value}).links
    claim = "`Response.links` has no next link behind a title with a semicolon"
    state("next" not in links, "httpx 0.28.1", claim)
