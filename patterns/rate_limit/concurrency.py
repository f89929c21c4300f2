# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Bound the calls that are under way at once.

`ConcurrencyLimit` is a bulkhead round a transport of a blocking or an async client: a
service that has become slow cannot take all the threads, tasks and memory of its
caller. Put it outermost, so that a call which waits for its next attempt counts too.
httpx's own `max_connections` is another limit: it counts connections, below the
retries, and a wait for one is part of the attempt and ends as `PoolTimeout`. Not for a
limit on requests in a time, which is `throttle`'s and `limiter`'s work. Follows
M. Nygard, "Release It!", ch. 5 (bulkheads).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import httpx

__all__ = ["BulkheadFullError", "ConcurrencyLimit"]


class BulkheadFullError(httpx.TransportError):
    """No place was free in time: the call was not sent. There are `limit` of them.

    Nothing need be wrong with the service; to try again at once does not help.
    """

    def __init__(
        self, message: str, *, limit: int = 0, request: httpx.Request | None = None
    ) -> None:
        super().__init__(message, request=request)
        self.limit = limit


class _Places:
    """Who has a place and who waits for one, each as a future that says so."""

    def __init__(self) -> None:
        self.taken: set[Future[None]] = set()
        self.waiting: deque[Future[None]] = deque()


class _Held(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that holds its call's place until it is closed."""

    def __init__(self, stream: Any, leave: Callable[[], None]) -> None:
        self._stream, self._leave = stream, leave

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._leave()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._leave()


class ConcurrencyLimit(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Let so many calls be under way at once; the others wait, first come first served.

    A call is under way from its sending until its response is closed, which httpx does
    when the body has been read to its end. A response that is never closed holds its
    place for ever. Whoever is cancelled gives back the place, or the turn to wait for
    one. Needs asyncio in an async client. Thread-safe and task-safe, and it may be used
    from several event loops.

    Args:
        transport: the transport below, of the client's kind.
        limit: calls at once.
        per_origin: count for each scheme, host and port by itself.
        max_waiting: calls that may wait; more are refused at once. None is any number.
        timeout: seconds that a call may wait. None is for ever.

    Raises:
        ValueError: `limit` is below 1, or one of the others below 0. The calls raise
            `BulkheadFullError`.

    >>> below = httpx.MockTransport(lambda request: httpx.Response(204))
    >>> with httpx.Client(transport=ConcurrencyLimit(below, 10)) as client:
    ...     client.get("https://api.test").status_code
    204
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport,
        limit: int,
        *,
        per_origin: bool = False,
        max_waiting: int | None = None,
        timeout: float | None = None,
    ) -> None:
        if limit < 1 or min(max_waiting or 0, timeout or 0) < 0:
            raise ValueError("a limit is at least 1, and a queue or a wait at least 0")
        self.limit, self.per_origin = limit, per_origin
        self.max_waiting, self.timeout = max_waiting, timeout
        self._transport: Any = transport
        self._lock = threading.Lock()
        # Only what has calls under way, so that other people's hosts fill no memory.
        self._places: dict[Any, _Places] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for a place, and send."""
        try:
            self._handle(request, block=True).send(None)
        except StopIteration as done:  # since nothing in it suspends
            response: httpx.Response = done.value
        return response

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for a place, and send."""
        return await self._handle(request, block=False)

    async def _handle(self, request: httpx.Request, block: bool) -> httpx.Response:
        url = request.url
        key = (url.scheme, url.host, url.port) if self.per_origin else None
        turn = self._enter(key, request)
        leave = partial(self._leave, key, turn)
        try:
            await self._wait(turn, request, block)
            response: httpx.Response
            if block:
                response = self._transport.handle_request(request)
            else:
                response = await self._transport.handle_async_request(request)
        except BaseException:
            leave()
            raise
        if response.is_closed:  # one that was made in memory
            leave()
        else:
            response.stream = _Held(response.stream, leave)
        return response

    async def _wait(
        self, turn: Future[None], request: httpx.Request, block: bool
    ) -> None:
        try:
            if block:
                turn.result(self.timeout)
            elif not turn.done():
                async with asyncio.timeout(self.timeout):
                    await asyncio.wrap_future(turn)
        except TimeoutError:
            told = f"none of {self.limit} places came free in {self.timeout:g} s"
            raise BulkheadFullError(told, limit=self.limit, request=request) from None

    def _enter(self, key: Any, request: httpx.Request) -> Future[None]:
        """Take a place, or a turn to wait for one."""
        turn = Future[None]()
        with self._lock:
            places = self._places.setdefault(key, _Places())
            if len(places.taken) < self.limit:
                places.taken.add(turn)
                turn.set_result(None)
            elif self.max_waiting is None or len(places.waiting) < self.max_waiting:
                places.waiting.append(turn)
            else:
                told = f"{self.limit} calls are under way, {self.max_waiting} wait"
                raise BulkheadFullError(told, limit=self.limit, request=request)
        return turn

    def _leave(self, key: Any, turn: Future[None]) -> None:
        """Give back a place or a turn; what was given back already is left alone."""
        with self._lock:
            places = self._places.get(key, _Places())
            if turn in places.taken:
                places.taken.remove(turn)
            elif turn in places.waiting:
                places.waiting.remove(turn)
            while places.waiting and len(places.taken) < self.limit:
                first = places.waiting.popleft()
                if first.set_running_or_notify_cancel():  # or it is leaving as well
                    places.taken.add(first)
                    first.set_result(None)
            if not places.taken:
                self._places.pop(key, None)

    def close(self) -> None:
        """Close the transport below."""
        self._transport.close()

    async def aclose(self) -> None:
        """Close the transport below."""
        await self._transport.aclose()


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
