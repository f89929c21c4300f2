"""Walkers: our paginator over real sockets, in all the ways there are to drive it."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for the files beside this one

from authorization_server import AuthorizationServer
from over import over

from patterns.pagination import paginator

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"  # dlt: nothing leaves the loopback
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


class Walked(NamedTuple):
    """What a walk handed out, and where it stood then."""

    items: list[Any]
    checkpoint: str


class Walker:
    """Walk with one httpx package, blocking or async.

    `paginator` is the module as `patterns add --http` would write it for that package,
    and so the styles and errors to use are those of `paginator`.
    """

    def __init__(self, package: str, kind: str) -> None:
        self.http: Any = importlib.import_module(package)
        self.paginator: Any = over(paginator, package)
        self.kind = kind

    def walk(
        self,
        url: str,
        style: Any,
        *,
        take: int | None = None,
        request: dict[str, Any] | None = None,
        client: dict[str, Any] | None = None,
        **options: Any,
    ) -> Walked:
        """Walk from a request, to the end or until `take` items were handed out."""
        first = {"method": "GET", "url": url, **(request or {})}
        # No server here speaks TLS, and reading the certificates takes a while.
        settings = {
            "timeout": 30,
            "verify": False,
            "trust_env": False,
            **(client or {}),
        }
        work = self._block if self.kind == "sync" else self._await
        return work(first, style, take, settings, options)

    def _block(
        self, first: Any, style: Any, take: int | None, client: Any, options: Any
    ) -> Walked:
        with self.http.Client(**client) as http:
            request = http.build_request(**first)
            walk = self.paginator.paginate(http, request, style, **options)
            return Walked(list(itertools.islice(walk, take)), walk.checkpoint())

    def _await(
        self, first: Any, style: Any, take: int | None, client: Any, options: Any
    ) -> Walked:
        async def main() -> Walked:
            items: list[Any] = []
            async with self.http.AsyncClient(**client) as http:
                request = http.build_request(**first)
                walk = self.paginator.apaginate(http, request, style, **options)
                while len(items) != take:
                    try:
                        items.append(await anext(walk))
                    except StopAsyncIteration:
                        break
                await walk.aclose()
                return Walked(items, walk.checkpoint())

        return asyncio.run(main())


@pytest.fixture(
    params=[
        pytest.param((package, kind), id=f"{package}-{kind}")
        for package in ("httpx", "httpx2")
        for kind in ("sync", "async")
    ]
)
def walker(request: pytest.FixtureRequest) -> Walker:
    """Return each of the four walkers in turn."""
    return Walker(*request.param)


@pytest.fixture(scope="session")
def authorization_server(
    launch: Callable[..., str], node: str, npm_package: Callable[..., Path]
) -> AuthorizationServer:
    """Return a certified authorization server, started once a session."""
    return AuthorizationServer(launch, node, npm_package)
