"""All layers as one client, in the order that the note gives, over real connections."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from patterns.errors.circuit_breaker import (
    CircuitBreaker,
    CircuitBreakerTransport,
    CircuitOpenError,
)
from patterns.errors.retry import RetryBudget, RetryPolicy, RetryTransport
from patterns.rate_limit.concurrency import ConcurrencyLimit
from patterns.rate_limit.limiter import Limiter
from patterns.rate_limit.throttle import ThrottledError, ThrottleTransport

Serve = Callable[[Any], str]
Outcome = httpx.Response | httpx.HTTPError


def composed(network: Any, deadline: float = 10, **policy: Any) -> ConcurrencyLimit:
    """Return all layers around a transport, from the network to the caller.

    No layer waits for longer than the whole call may take.
    """
    breaker = CircuitBreakerTransport(network, CircuitBreaker())
    throttle = ThrottleTransport(breaker, Limiter(100, 1), max_wait=deadline)
    policy = {"deadline": deadline, "budget": RetryBudget(), **policy}
    retries = RetryTransport(throttle, RetryPolicy(**policy))
    return ConcurrencyLimit(retries, 20, timeout=deadline)


class Service:
    """An ASGI app that answers by a script for each path, and counts who comes."""

    def __init__(self, **script: list[tuple[int, dict[str, str]]]) -> None:
        self.script, self.asked, self.inside, self.most = script, Counter[str](), 0, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        name = scope["path"].strip("/")
        steps = self.script[name]
        status, fields = steps[min(self.asked[name], len(steps) - 1)]
        self.asked[name] += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(float(fields.get("x-takes", 0)))
        self.inside -= 1
        headers = [(k.encode(), v.encode()) for k, v in fields.items()]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"{}"})


def calls(kind: str, url: str, count: int, together: bool, **policy: Any) -> list[Any]:
    """Send calls through one composed client, together or one after another."""
    if kind == "async":
        return asyncio.run(_acalls(url, count, together, policy))
    transport = composed(httpx.HTTPTransport(verify=False), **policy)
    outcomes: list[Any] = []
    with httpx.Client(transport=transport) as client:

        def one() -> None:
            try:
                outcomes.append(client.get(url))
            except httpx.HTTPError as exc:
                outcomes.append(exc)

        threads = [threading.Thread(target=one) for _ in range(count)]
        for thread in threads:
            thread.start()
            if not together:
                thread.join()
        for thread in threads:
            thread.join()
    return outcomes


async def _acalls(url: str, count: int, together: bool, policy: Any) -> list[Any]:
    transport = composed(httpx.AsyncHTTPTransport(verify=False), **policy)
    async with httpx.AsyncClient(transport=transport) as client:

        async def one() -> Any:
            try:
                return await client.get(url)
            except httpx.HTTPError as exc:
                return exc

        work: list[Awaitable[Any]] = [one() for _ in range(count)]
        if together:
            return list(await asyncio.gather(*work))
        return [await each for each in work]


both = pytest.mark.parametrize("kind", ["sync", "async"])
OK: list[tuple[int, dict[str, str]]] = [(200, {})]


@both
def test_a_passing_fault_is_invisible(serve: Serve, kind: str) -> None:
    """Two answers of 503 and a third of 200 are one success to the caller."""
    service = Service(shop=[(503, {}), (503, {}), (200, {})])
    (answer,) = calls(kind, f"{serve(service)}/shop", 1, False, base_delay=0.01)
    assert answer.status_code == 200
    assert answer.extensions["attempts"] == service.asked["shop"] == 3


@both
def test_a_breakers_refusal_is_not_retried(serve: Serve, kind: str) -> None:
    """Ten failed attempts open the breaker; what it then refuses nobody repeats."""
    service = Service(shop=[(503, {})])
    outcomes = calls(kind, f"{serve(service)}/shop", 10, False, base_delay=0)
    refusals = [o for o in outcomes if isinstance(o, CircuitOpenError)]
    assert service.asked["shop"] == 10
    assert len(refusals) >= 7
    assert refusals[-1].__notes__ == ["attempt 1, the last one: final"]


@both
def test_a_throttles_refusal_is_not_retried(serve: Serve, kind: str) -> None:
    """After `Retry-After: 3600` the answer is returned, and no later call is sent."""
    service = Service(shop=[(429, {"retry-after": "3600"})])
    began = time.monotonic()
    outcomes = calls(kind, f"{serve(service)}/shop", 5, False)
    assert service.asked["shop"] == 1
    assert outcomes[0].extensions["retry_stop"] == "retry-after"
    assert [type(o) for o in outcomes[1:]] == [ThrottledError] * 4
    assert outcomes[1].__notes__ == ["attempt 1, the last one: final"]
    assert time.monotonic() - began < 5  # nobody slept for it


@both
def test_no_more_than_the_limit_are_under_way(serve: Serve, kind: str) -> None:
    """Of sixty calls at once twenty are under way, and all are answered."""
    service = Service(shop=[(200, {"x-takes": "0.02"})])
    outcomes = calls(kind, f"{serve(service)}/shop", 60, True)
    assert [o.status_code for o in outcomes] == [200] * 60
    assert 1 < service.most <= 20


@both
def test_a_deadline_holds_through_all_layers(serve: Serve, kind: str) -> None:
    """A service that hangs costs the deadline, and not attempts times the timeout."""
    service = Service(shop=[(200, {"x-takes": "1.5"})])
    began = time.monotonic()
    (error,) = calls(kind, f"{serve(service)}/shop", 1, False, deadline=0.4)
    assert isinstance(error, httpx.TimeoutException)
    assert time.monotonic() - began < 3
    assert service.asked["shop"] <= 2


@both
def test_no_layer_waits_past_the_deadline(serve: Serve, kind: str) -> None:
    """A window longer than the call may take is refused, and not slept for."""
    service = Service(shop=[(200, {"ratelimit": '"x";r=0;t=14'})])
    began = time.monotonic()
    outcomes = calls(kind, f"{serve(service)}/shop", 2, False, deadline=1)
    assert [type(o) for o in outcomes] == [httpx.Response, ThrottledError]
    assert time.monotonic() - began < 5
    assert service.asked["shop"] == 1


@both
def test_a_deadline_does_not_blind_the_breaker(serve: Serve, kind: str) -> None:
    """Calls that end by their deadline count as failures, and open the breaker."""
    service = Service(shop=[(200, {"x-takes": "1.5"})])
    outcomes = calls(kind, f"{serve(service)}/shop", 14, False, deadline=0.1)
    assert isinstance(outcomes[0], httpx.TimeoutException)
    assert isinstance(outcomes[-1], CircuitOpenError)
