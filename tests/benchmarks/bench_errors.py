"""What retries, breakers and problem details cost where nothing goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiobreaker
import circuitbreaker
import fastapi_rfc9457
import httpx
import httpx_retries
import purgatory
import pybreaker
import stamina
import tenacity
from harness import Row, interleave

from patterns.errors.circuit_breaker import CircuitBreaker, CircuitBreakerTransport
from patterns.errors.problem_details import ProblemDetails
from patterns.errors.retry import RetryBudget, RetryPolicy, RetryTransport

URL = "https://api.test/orders/7"
BODY = json.dumps({"id": 7, "state": "paid", "lines": [1, 2, 3]}).encode()
BARE = "bare httpx"
FOUR: Any = {  # attempts, with the waits of RetryPolicy
    "retry": tenacity.retry_if_exception_type(httpx.HTTPError),
    "stop": tenacity.stop_after_attempt(4),
    "wait": tenacity.wait_random_exponential(0.1, max=20),
}
TARGETS = {"RetryTransport": 1.03}


def transports(below: httpx.MockTransport) -> dict[str, Any]:
    """Return ours, and the one peer that is a transport too, over another."""
    budgeted = RetryPolicy(budget=RetryBudget())
    return {
        BARE: below,
        f"{BARE}, again": below,  # what of a ratio is noise
        "RetryTransport": RetryTransport(below),
        "RetryTransport, deadline": RetryTransport(below, RetryPolicy(deadline=30)),
        "RetryTransport, budget": RetryTransport(below, budgeted),
        "CircuitBreakerTransport": CircuitBreakerTransport(below),
        "both of them": RetryTransport(CircuitBreakerTransport(below)),
        "httpx-retries": httpx_retries.RetryTransport(below),
    }


def server() -> httpx.MockTransport:
    """Return a service that always answers."""
    headers = {"content-type": "application/json"}
    return httpx.MockTransport(
        lambda request: httpx.Response(200, headers=headers, content=BODY)
    )


def bench_errors_blocking(quick: bool) -> Iterator[Row]:
    """Compare a GET through each layer with a bare one, by a blocking client."""

    def getting(transport: Any) -> Callable[[], bytes]:
        client = httpx.Client(transport=transport)
        return lambda: client.get(URL).content

    client = httpx.Client(transport=server())

    def checked() -> bytes:  # what goes by errors alone needs a status raised
        return client.get(URL).raise_for_status().content

    plain, factory = getting(server()), purgatory.SyncCircuitBreakerFactory()
    breaker = pybreaker.CircuitBreaker()
    cases = {name: getting(layer) for name, layer in transports(server()).items()}
    cases |= {
        "stamina": stamina.retry(on=httpx.HTTPError, attempts=4)(checked),
        "tenacity": tenacity.retry(**FOUR)(checked),
        "purgatory": factory("api")(plain),
        "pybreaker": lambda: breaker.call(plain),
    }
    rounds, repeat = (1, 2) if quick else (100, 80)
    times = interleave(cases, rounds, repeat=repeat, result=BODY)
    for name in list(cases)[1:]:
        yield times.row(name, BARE, target=TARGETS.get(name))


def bench_errors_async(quick: bool) -> Iterator[Row]:
    """Compare the same by an async client, many calls to a run of the loop."""

    def getting(transport: Any) -> Callable[[], Awaitable[bytes]]:
        client = httpx.AsyncClient(transport=transport)

        async def get() -> bytes:
            return (await client.get(URL)).content

        return get

    client = httpx.AsyncClient(transport=server())

    async def checked() -> bytes:
        return (await client.get(URL)).raise_for_status().content

    plain, factory = getting(server()), purgatory.AsyncCircuitBreakerFactory()
    breaker = aiobreaker.CircuitBreaker()
    ways = {name: getting(layer) for name, layer in transports(server()).items()}
    ways |= {
        "stamina": stamina.retry(on=httpx.HTTPError, attempts=4)(checked),
        "tenacity": tenacity.retry(**FOUR)(checked),
        "purgatory": factory("api")(plain),
        "aiobreaker": lambda: breaker.call_async(plain),
    }
    rounds, count = (1, 2) if quick else (100, 80)

    async def many(way: Callable[[], Awaitable[bytes]]) -> set[bytes]:
        return {await way() for _ in range(count)}

    with asyncio.Runner() as runner:
        cases = {
            name: lambda way=way: runner.run(many(way)) for name, way in ways.items()
        }
        times = interleave(cases, rounds, result={BODY})
    for name in list(cases)[1:]:
        yield times.row(name, BARE, target=TARGETS.get(name), per=count)


def bench_errors_permit(quick: bool) -> Iterator[Row]:
    """Compare what a breaker adds to a call that does nothing."""
    ours, name = CircuitBreaker(), "CircuitBreaker"
    theirs = circuitbreaker.CircuitBreaker(name="it")
    factory, locked = purgatory.SyncCircuitBreakerFactory(), pybreaker.CircuitBreaker()

    def nothing() -> int:
        return 7

    def settled() -> int:
        permit = ours.acquire()
        result = nothing()
        permit.settle(True)
        return result

    def guarded() -> int:
        with ours.acquire():
            return nothing()

    cases = {
        name: settled,
        f"{name} by `with`": guarded,
        "circuitbreaker": theirs.decorate(nothing),
        "purgatory": factory("it")(nothing),
        "pybreaker": lambda: locked.call(nothing),
    }
    rounds, repeat = (1, 2) if quick else (40, 5_000)
    times = interleave(cases, rounds, repeat=repeat, result=7)
    for peer in ("circuitbreaker", "purgatory", "pybreaker"):
        yield times.row(name, peer)
    yield times.row(f"{name} by `with`", name)


def bench_errors_problem(quick: bool) -> Iterator[Row]:
    """Compare a problem read from a response with a dict, and with a peer's."""
    kind = {"content-type": "application/problem+json"}
    request = httpx.Request("GET", URL)
    rounds, repeat = (1, 2) if quick else (40, 1_000)
    for form, instance in (
        ("absolute URIs", "https://example.com/account/12345/msgs/abc"),
        ("relative instance", "/account/12345/msgs/abc"),
    ):
        members = {
            "type": "https://example.com/probs/no-credit",
            "title": "You do not have enough credit.",
            "status": 403,
            "detail": "Your current balance is 30, but that costs 50.",
            "instance": instance,
            "balance": 30,
            "accounts": ["/account/12345", "/account/67890"],
        }
        content = json.dumps(members).encode()
        response = httpx.Response(403, headers=kind, content=content, request=request)

        def by_hand(response: httpx.Response = response) -> tuple[Any, ...]:
            problem = json.loads(response.content)
            return problem["type"], problem.get("title"), problem["balance"]

        def ours(response: httpx.Response = response) -> tuple[Any, ...]:
            problem = ProblemDetails.from_response(response)
            assert problem is not None
            return problem.type, problem.title, problem.extensions["balance"]

        def theirs(response: httpx.Response = response) -> tuple[Any, ...]:
            problem: Any = fastapi_rfc9457.parse_problem(response)
            return problem.type, problem.title, problem.balance

        names = [
            f"{who}, {form}" for who in ("dict", "ProblemDetails", "fastapi-rfc9457")
        ]
        cases = dict(zip(names, (by_hand, ours, theirs), strict=True))
        result = members["type"], members["title"], members["balance"]
        times = interleave(cases, rounds, repeat=repeat, result=result)
        yield times.row(names[1], names[0])
        yield times.row(names[1], names[2])
