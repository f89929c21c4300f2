"""Servers that lead a client astray, and keep what it sent them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


class Astray:
    """An ASGI app: the answers come in turn, the last of them for ever.

    An answer is a JSON body, with the Link header's value beside it if there is one.
    `requests` holds the headers of each request.
    """

    def __init__(self, *answers: tuple[Any, str | None]) -> None:
        self.answers = answers
        self.requests: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        n = min(len(self.requests), len(self.answers) - 1)
        pairs = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        self.requests.append(dict(pairs))
        body, link = self.answers[n]
        headers = [(b"content-type", b"application/json")]
        if link is not None:
            headers.append((b"link", link.encode()))
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        await send(start)
        content = json.dumps(body).encode()
        await send({"type": "http.response.body", "body": content})


class Circle(Astray):
    """A cursor server whose tokens come round, and never end."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens
        super().__init__()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        n = len(self.requests)
        token = self.tokens[n % len(self.tokens)]
        self.answers = (({"items": [n], "next": token}, None),)
        await super().__call__(scope, receive, send)
