# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28.1"]
# ///
"""Call URLs that others choose, and never reach your own network by one.

`EgressTransport` resolves a name once, refuses it if any of its addresses is not a
public one, and dials an address that it has checked: a name that changes its answer
meanwhile (DNS rebinding) gains nothing. `check_url` refuses what can be refused without
a lookup, when an endpoint is registered. For webhooks, imports by URL and previews; not
for URLs of your own configuration, and not instead of a firewall, which alone knows
your public ranges, or a NAT64 prefix of your own. A client's `proxy=` or `mounts=` goes
past it; a proxy in the environment does not, since httpx looks for none where it is
given a transport. Follows the IANA special-purpose address
registries (RFC 6890), RFC 4291 (IPv6 forms), RFC 6066 §3 (SNI) and RFC 9112 §9.6.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, TypeAlias

import httpx

__all__ = ["EgressRefusedError", "EgressTransport", "check_url", "is_deliverable"]

_Address: TypeAlias = IPv4Address | IPv6Address
_Resolve: TypeAlias = Callable[[str, int], Iterable[str] | Awaitable[Iterable[str]]]

# https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-…: what is
# not globally reachable, what leads to an IPv4 address by another way, and multicast.
# A list, since the flags of `ipaddress` leave some of it out, and drift by version.
_REFUSED = tuple(
    ip_network(each)
    for each in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared with a carrier
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, and the metadata of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "::/96",  # unspecified, loopback, IPv4-compatible
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64, local use
        "100::/64",  # discard
        "2001::/23",  # protocol assignments, with Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "5f00::/16",  # SRv6 segments
        "fc00::/7",  # unique local
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local, deprecated
        "ff00::/8",  # multicast
    )
)
_LONGEST_URL = 8000  # characters that RFC 9110 §4.1 has everybody support
_LONGEST_NAME = 253
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
# A last label that starts with a digit makes an IPv4 address of what is no plain one:
# to a C library `127.1`, `2130706433` and `0x7f.0.0.1` are all 127.0.0.1.
_NAME = re.compile(rf"({_LABEL}\.)+[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?")
# RFC 6762 §3, ICANN's private-use name, RFC 8375: never on the internet.
_LOCAL_NAMES = (".local", ".internal", ".home.arpa")
_PORTS = {"http": 80, "https": 443}
_TRIES = 4  # addresses of one name that are dialled
_THREADS, _LOOKUPS = 64, 4  # for lookups, and of those for one host
_UNREACHED = (httpx.ConnectError, httpx.ConnectTimeout)  # and so nothing was sent


class EgressRefusedError(httpx.TransportError, ValueError):
    """The URL must not be called: nothing was sent, and no retry will help.

    A `ValueError` where an endpoint is registered, a transport's error where it is
    called. `reason` is one of `url`, `scheme`, `userinfo`, `port`, `host` (neither a
    name of the internet nor a plain address) and `address` (not a public one). That
    address is in `address`, for your log: the message may go to who chose the URL,
    and must not map your network for them.
    """

    def __init__(
        self, message: str, *, reason: str = "", address: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason, self.address = reason, address


def is_deliverable(address: object) -> bool:
    """Tell whether an address, as text or of `ipaddress`, is public and plain.

    An IPv4-mapped address counts as the IPv4 address in it. One with a zone, a network,
    a number, and what is no address at all are not deliverable; nothing is raised.

    >>> is_deliverable("8.8.8.8"), is_deliverable("::ffff:8.8.8.8")
    (True, True)
    >>> is_deliverable("169.254.169.254"), is_deliverable("64:ff9b::a9fe:a9fe")
    (False, False)
    """
    plain = _plain(address)
    return plain is not None and _is_public(plain)


def _plain(address: object) -> _Address | None:
    """Return an address, out of its IPv4-mapped form, or None if it is no plain one."""
    if not isinstance(address, str | IPv4Address | IPv6Address):
        return None  # a number or four bytes are an address to `ipaddress`
    try:
        plain = ip_address(str(address)[:64])  # the longest has 45 characters
    except ValueError:
        return None
    if isinstance(plain, IPv4Address):
        return plain
    return None if plain.scope_id is not None else plain.ipv4_mapped or plain


def _is_public(plain: _Address) -> bool:
    inner = _translated(plain) if isinstance(plain, IPv6Address) else None
    if inner is not None and not _is_public(inner):
        return False
    return not any(plain in network for network in _REFUSED)


def _translated(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a translator would go on to, in any network.

    Networks that are for nothing else (NAT64, 6to4, Teredo) are refused as a whole.
    """
    upper, lower = divmod(int(address), 1 << 32)
    isatap = upper & 0xFDFF_FFFF == 0x5EFE  # RFC 5214 §6.1, the `u` bit left out
    return IPv4Address(lower) if isatap or upper == 0xFFFF_0000 else None  # RFC 2765


def check_url(
    url: str | httpx.URL,
    *,
    allow_http: bool = False,
    allow_loopback: bool = False,
    ports: Collection[int] | None = None,
) -> None:
    """Refuse a URL that must not be called, as far as that shows without a lookup.

    Call it when an endpoint is registered; the transport calls it again. It wants
    https, no user, and a host that is a name with a dot or an address in its one
    canonical spelling, in ASCII: international names as `xn--…`.

    Args:
        url: text or `httpx.URL`; anything else is refused.
        allow_http: plain http too.
        allow_loopback: `localhost` and loopback addresses too. For tests.
        ports: the only ones that may be named or meant, or None for all.

    Raises:
        EgressRefusedError: a `ValueError`; see its `reason`.

    >>> check_url("https://hooks.example.com/in")
    >>> try:
    ...     check_url("https://2130706433/")
    ... except ValueError as error:
    ...     print(error)
    the URL's host is neither a public name nor a plain address
    """
    url = _parse(url)
    if url.scheme != "https" and not (allow_http and url.scheme == "http"):
        wanted = "http or https" if allow_http else "https"
        raise EgressRefusedError(f"the URL's scheme is not {wanted}", reason="scheme")
    if url.userinfo:
        told = "the URL has a user or a password in it"
        raise EgressRefusedError(told, reason="userinfo")
    port = _port(url)
    if not 0 < port < 65536 or (ports is not None and port not in ports):
        raise EgressRefusedError("the URL's port is not allowed", reason="port")
    host = url.raw_host.decode("ascii")
    plain = _plain(host)
    if plain is not None and str(plain) == host:
        _choose(host, [host], allow_loopback)
    elif not _is_name(host, allow_loopback):
        told = "the URL's host is neither a public name nor a plain address"
        raise EgressRefusedError(told, reason="host")


def _parse(url: str | httpx.URL) -> httpx.URL:
    """Return a URL, if it is not too long and reads the same to everybody."""
    try:
        text = str(url) if isinstance(url, str | httpx.URL) else ""
        if len(text) <= _LONGEST_URL and re.fullmatch("[!-~]+", text):
            return httpx.URL(text) if isinstance(url, str) else url
    except (httpx.InvalidURL, ValueError):  # not told: it quotes the URL
        pass
    told = f"not a URL in ASCII of at most {_LONGEST_URL} characters"
    raise EgressRefusedError(told, reason="url")


def _port(url: httpx.URL) -> int:
    return _PORTS[url.scheme] if url.port is None else url.port


def _is_name(host: str, allow_loopback: bool) -> bool:
    """Tell whether a host is a name that the internet may know, or allowed loopback.

    One without a dot, or with one at its end, is for local search lists; and no
    certificate is for it (RFC 6066 §3).
    """
    if host == "localhost":
        return allow_loopback
    named = len(host) <= _LONGEST_NAME and _NAME.fullmatch(host) is not None
    inside = host.endswith(".localhost") and not allow_loopback  # RFC 6761 §6.3
    return named and not inside and not host.endswith(_LOCAL_NAMES)


def _choose(host: str, found: Iterable[str], allow_loopback: bool) -> list[str]:
    """Return the addresses to dial, in order: none, if one of all is not public.

    A name with a public address and a private one is an attack or a mistake, and to
    use the good half would hide either.
    """
    chosen: dict[str, None] = {}  # each once, in order
    for address in found:
        plain = _plain(address)
        loopback = allow_loopback and plain is not None and plain.is_loopback
        if plain is None or not (loopback or _is_public(plain)):
            told = f"{host} leads to an address that is not public"
            shown = str(address)[:64]
            raise EgressRefusedError(told, reason="address", address=shown)
        chosen[str(plain)] = None
    if not chosen:
        raise httpx.ConnectError(f"{host} has no address")
    return list(chosen)[:_TRIES]


def _attempt(request: httpx.Request, host: str, address: str) -> httpx.Request:
    """Return the request as it goes to an address; the caller's stays as it is.

    The name stays in `Host`, and in the extension by which TLS sends SNI and verifies
    the certificate. Pools know a connection by its address alone: kept, one would be
    used for another name there without that name's certificate. So none is kept
    (RFC 9112 §9.6), whatever pool is below.
    """
    headers = request.headers.copy()
    headers["connection"] = "close"
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


def _unfollowable(response: httpx.Response) -> httpx.Response:
    """Return a response that no client follows, with its status as it was.

    A client that does not follow reads `Location` too, and fails if it is malformed.
    """
    if 300 <= response.status_code < 400 and "location" in response.headers:
        response.extensions["location"] = response.headers.pop("location")
    return response


@contextmanager
def _lookup(host: str) -> Iterator[None]:
    """Turn a failed lookup into the error of a connection that was not made."""
    try:
        yield
    except TimeoutError as exc:
        raise httpx.ConnectTimeout(f"the lookup of {host} took too long") from exc
    except OSError as exc:
        raise httpx.ConnectError(f"the lookup of {host} failed") from exc


def _resolve(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in infos]


class _Lookups:
    """Lookups in threads of their own: one that hangs cannot be ended, only left.

    Of one host only some are under way, or those that hang would take all threads.
    """

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(_THREADS, "lookup")
        self._under_way: Counter[str] = Counter()

    async def __call__(self, host: str, port: int) -> list[str]:
        if self._under_way[host] >= _LOOKUPS:
            raise OSError("too many lookups of one host are under way")
        self._under_way[host] += 1
        work = self.pool.submit(_resolve, host, port)
        work.add_done_callback(lambda _: self._under_way.subtract([host]))
        return await asyncio.wrap_future(work)


class EgressTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Send requests to public addresses only, each over a connection of its own.

    For `Client` and `AsyncClient` (on asyncio), threads and tasks. All addresses of a
    name are checked on each request, and up to four are dialled in their order, each
    within the client's timeout for connecting. A 3xx answer comes back without its
    `Location`, which is in `response.extensions["location"]`: there is nothing that a
    client could follow, at any setting. What the body may cost is for the caller to
    bound.

    A lookup by an async client takes a thread of the transport's own, for as long as
    the system does, though the caller waits no longer than the timeout for connecting.
    A blocking one takes what the system allows.

    Args:
        transport: the transport below, of the client's kind, for HTTP/1.1; httpx's own
            by default.
        resolve: returns a host's addresses from the host and the port, or raises
            OSError; for an async client it may be async. `getaddrinfo` by default.
        allow_http: plain http too.
        allow_loopback: `localhost` and loopback addresses too. For tests.
        ports: the only ones that may be called, or None for all.

    Raises:
        EgressRefusedError: from each request, if its URL must not be called.
        httpx.ConnectError: a lookup failed, or no address was reached.
        httpx.ConnectTimeout: the same, for want of time.

    >>> below = httpx.MockTransport(lambda request: httpx.Response(204))
    >>> answers = iter([["1.1.1.1"], ["10.0.0.7"]])  # a name that changes its answer
    >>> transport = EgressTransport(below, resolve=lambda host, port: next(answers))
    >>> client = httpx.Client(transport=transport)
    >>> client.post("https://hooks.example.com").status_code
    204
    >>> try:
    ...     client.post("https://hooks.example.com")
    ... except EgressRefusedError as error:
    ...     error.reason, error.address
    ('address', '10.0.0.7')
    """

    def __init__(
        self,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None,
        *,
        resolve: _Resolve | None = None,
        allow_http: bool = False,
        allow_loopback: bool = False,
        ports: Collection[int] | None = None,
    ) -> None:
        self._sync: Any = transport
        self._async: Any = transport
        if transport is None:
            context = httpx.create_ssl_context()
            self._sync = httpx.HTTPTransport(verify=context)
            self._async = httpx.AsyncHTTPTransport(verify=context)
        self._resolve: Any = resolve or _resolve
        self._lookups = _Lookups()
        self._aresolve: Any = resolve or self._lookups
        self._loopback = allow_loopback
        self._check = partial(
            check_url,
            allow_http=allow_http,
            allow_loopback=allow_loopback,
            ports=ports,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to a checked address of its host."""
        host, port, found = self._target(request)
        if found is None:
            with _lookup(host):
                found = self._resolve(host, port)
        *first, last = self._attempts(request, host, found)
        for attempt in first:
            with suppress(*_UNREACHED):
                return _unfollowable(self._sync.handle_request(attempt))
        return _unfollowable(self._sync.handle_request(last))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request to a checked address of its host."""
        host, port, found = self._target(request)
        if found is None:
            seconds = request.extensions.get("timeout", {}).get("connect")
            with _lookup(host):
                async with asyncio.timeout(seconds):
                    found = self._aresolve(host, port)
                    if inspect.isawaitable(found):
                        found = await found
        *first, last = self._attempts(request, host, found)
        for attempt in first:
            with suppress(*_UNREACHED):
                return _unfollowable(await self._async.handle_async_request(attempt))
        return _unfollowable(await self._async.handle_async_request(last))

    def _target(self, request: httpx.Request) -> tuple[str, int, Any]:
        """Return a checked URL's host and port, and the host if it is an address."""
        self._check(request.url)
        host = request.url.raw_host.decode("ascii")
        return host, _port(request.url), [host] if _plain(host) else None

    def _attempts(
        self, request: httpx.Request, host: str, found: Iterable[str]
    ) -> list[httpx.Request]:
        addresses = _choose(host, found, self._loopback)
        return [_attempt(request, host, address) for address in addresses]

    def close(self) -> None:
        """Close the transport below."""
        self._sync.close()

    async def aclose(self) -> None:
        """Close the transport below."""
        self._lookups.pool.shutdown(wait=False, cancel_futures=True)
        await self._async.aclose()


if __name__ == "__main__":
    import doctest

    results = doctest.testmod()
    print(results)
    raise SystemExit(results.failed > 0)
