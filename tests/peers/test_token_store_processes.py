"""Processes that share a file of tokens, before a server that punishes a second use.

The server is our own. It rotates refresh tokens, and who sends a spent one loses all
that came from it (RFC 9700 §4.14.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from patterns.auth import token_store

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("refreshing_processes.py")
PROCESSES = 6


class Rotating:
    """An authorization server with one family of refresh tokens."""

    def __init__(self) -> None:
        self.current, self.requests, self.revoked, self.deaf = 0, 0, False, False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body")
        deaf = self.deaf
        self.requests += 1
        while deaf:
            if (await receive())["type"] == "http.disconnect":
                return
        status, answer = self.answer(parse_qs(body.decode())["refresh_token"][0])
        await asyncio.sleep(0.2)  # so that all who do not wait for one meet here
        fields = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        body = json.dumps(answer).encode()
        await send({"type": "http.response.body", "body": body})

    def answer(self, refresh_token: str) -> tuple[int, dict[str, Any]]:
        """Return the next token of the family, or end the family."""
        if self.revoked or refresh_token != f"r{self.current}":
            self.revoked = True
            return 400, {"error": "invalid_grant"}
        self.current += 1
        return 200, {
            "access_token": f"a{self.current}",
            "refresh_token": f"r{self.current}",
            "token_type": "Bearer",
            "expires_in": 600,
        }


@pytest.fixture
def server() -> Rotating:
    """Return a server that has given out `r0`."""
    return Rotating()


@pytest.fixture
def store(tmp_path: Path) -> token_store.FileTokenStore:
    """Return a store that holds an expired token, and `r0` to get a new one by."""
    store = token_store.FileTokenStore(tmp_path / "state" / "token.json")
    expired = {"access_token": "a0", "token_type": "Bearer", "expires_at": 1.0}
    store.save({**expired, "refresh_token": "r0"})
    return store


@contextlib.contextmanager
def processes(count: int, *args: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Run processes that are ready to get a token, and wait for a line."""
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, SCRIPT, *args],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        yield started


def go(process: subprocess.Popen[str]) -> None:
    """Let a process get its token."""
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def said(process: subprocess.Popen[str]) -> str:
    """Return what a process said in the end."""
    out, _ = process.communicate(timeout=30)
    return out.strip()


def where(store: token_store.FileTokenStore, tmp_path: Path) -> str:
    """Return the path of the store's file."""
    return str(tmp_path / "state" / "token.json")


def test_processes_refresh_once(
    serve: Callable[[Any], str],
    server: Rotating,
    store: token_store.FileTokenStore,
    tmp_path: Path,
) -> None:
    """Of many that find the token expired one refreshes, and all have the new one."""
    url = serve(server)
    with processes(PROCESSES, f"{url}/token", where(store, tmp_path)) as started:
        for process in started:
            go(process)
        assert [said(process) for process in started] == ["a1"] * PROCESSES
    assert (server.requests, server.revoked) == (1, False)
    kept = store.load()
    assert kept is not None
    assert (kept["access_token"], kept["refresh_token"]) == ("a1", "r1")
    assert store.try_lock()


def test_processes_without_a_shared_store_lose_all(
    serve: Callable[[Any], str], server: Rotating
) -> None:
    """The trap: each refreshes for itself, and the second one ends the family."""
    url = serve(server)
    with processes(3, f"{url}/token", "=r0") as started:
        for process in started:
            go(process)
        told = sorted(said(process) for process in started)
    assert told == ["a1", "invalid_grant", "invalid_grant"]
    assert server.revoked


def test_a_process_that_dies_at_it_leaves_the_lock(
    serve: Callable[[Any], str],
    server: Rotating,
    store: token_store.FileTokenStore,
    tmp_path: Path,
) -> None:
    """Killed while it waits for the server, it keeps nobody from refreshing."""
    url = serve(server)
    with processes(2, f"{url}/token", where(store, tmp_path)) as (first, second):
        server.deaf = True
        go(first)
        while not server.requests:
            assert first.poll() is None
            time.sleep(0.01)
        assert not store.try_lock()
        go(second)
        first.kill()
        first.wait()
        server.deaf = False
        assert said(second) == "a1"
    assert (server.requests, server.revoked) == (2, False)
