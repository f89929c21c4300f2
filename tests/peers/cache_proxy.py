"""A reverse proxy that sends through a transport, to show a cache to others."""

from __future__ import annotations

from typing import Any

import httpx

HOP = {b"connection", b"keep-alive", b"transfer-encoding"}


class CacheProxy:
    """An ASGI app that answers what an async transport answers for an origin."""

    def __init__(self, transport: httpx.AsyncBaseTransport, origin: str) -> None:
        self.transport, self.origin = transport, origin

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass one request on, and its answer back as it came."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        path = scope["raw_path"].decode()
        query = scope["query_string"].decode()
        kept = [(n, v) for n, v in scope["headers"] if n not in HOP | {b"host"}]
        request = httpx.Request(
            scope["method"],
            f"{self.origin}{path}{'?' if query else ''}{query}",
            headers=[(b"host", self.origin.removeprefix("http://").encode()), *kept],
            content=body,
        )
        try:
            response = await self.transport.handle_async_request(request)
        except httpx.TransportError:
            head = {"type": "http.response.start", "status": 502, "headers": []}
            await send(head)
            await send({"type": "http.response.body"})
            return
        fields = [(n.lower(), v) for n, v in response.headers.raw]
        fields = [(n, v) for n, v in fields if n not in HOP]
        status = response.status_code if response.status_code < 600 else 500
        await send({"type": "http.response.start", "status": status, "headers": fields})
        try:
            async for chunk in response.aiter_raw():
                part = {"type": "http.response.body", "body": chunk, "more_body": True}
                await send(part)
        finally:
            await response.aclose()
        await send({"type": "http.response.body"})
