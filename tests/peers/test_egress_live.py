"""The egress filter over real sockets and TLS, under httpx and httpx2, in both kinds.

The server has a certificate for each of two names, both at 127.0.0.1, from a CA made
for the session. Names are resolved by the tests: nothing leaves the loopback.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from claims import state
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from over import over

from patterns.errors import retry
from patterns.webhooks import egress

ONE, TWO, THIRD = "one.hooks.test", "two.hooks.test", "third.hooks.test"
HOME, NOBODY = "127.0.0.1", "127.0.0.2"
PATIENCE = 10.0


class Authority:
    """A certificate authority, and the certificates that it has made."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")])
        usage = x509.KeyUsage(
            *(False, False, False, False, False, True, True, False, False)
        )
        extensions = [x509.BasicConstraints(ca=True, path_length=0), usage]
        cert = self.sign(self.name, self.key, extensions)
        self.pem = cert.public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, name: Any, key: Any, extensions: list[Any]) -> x509.Certificate:
        """Return a certificate for a name and a key."""
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self.name,
            subject_name=name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(hours=1),
            not_valid_after=now + timedelta(hours=1),
        )
        identifiers = [
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
        ]
        for extension in (*extensions, *identifiers):
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hashes.SHA256())

    def server(self, host: str) -> ssl.SSLContext:
        """Return the context of a server with a certificate for a name."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        cert = self.sign(x509.Name([]), key, [names])
        path = self.folder / f"{host}.pem"
        path.write_bytes(
            cert.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def client(self) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.pem)
        return context


class Server(ThreadingHTTPServer):
    """A server that keeps its connections; it notes what it is asked, and by whom."""

    daemon_threads = True

    def __init__(self, contexts: dict[str, ssl.SSLContext] | None = None) -> None:
        super().__init__((HOME, 0), Handler)
        self.sni: list[str | None] = []
        self.connections: list[Any] = []
        self.hosts: list[str | None] = []
        self.asked, self.ended = threading.Event(), threading.Event()
        self.port = self.server_address[1]
        if contexts:
            first = next(iter(contexts.values()))

            def choose(sock: ssl.SSLSocket, name: str, _: ssl.SSLContext) -> None:
                self.sni.append(name)
                sock.context = contexts.get(name, first)

            first.sni_callback = choose  # type: ignore[assignment]
            self.socket = first.wrap_socket(self.socket, server_side=True)


class Handler(BaseHTTPRequestHandler):
    """Answer at once; `/moved` leads elsewhere, and `/hang` does not answer."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        self.server.connections.append(self.client_address)
        super().setup()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        self.server.hosts.append(self.headers["host"])
        if self.path == "/hang":
            self.server.asked.set()
            self.rfile.read(1)  # to the end of the connection
            self.server.ended.set()
            return
        self.send_response(302 if self.path == "/moved" else 200)
        if self.path == "/moved":
            self.send_header("Location", "/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def running(server: Server) -> Iterator[Server]:
    """Run a server in a thread while a test lasts."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(PATIENCE)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def tls(authority: Authority) -> Iterator[Server]:
    yield from running(Server({name: authority.server(name) for name in (ONE, TWO)}))


@pytest.fixture
def plain() -> Iterator[Server]:
    yield from running(Server())


class Kit:
    """One httpx package and one kind of client, and the filter over that package."""

    def __init__(self, package: str, kind: str, authority: Authority) -> None:
        self.http: Any = importlib.import_module(package)
        self.egress: Any = over(egress, package)
        self.retry: Any = over(retry, package)
        self.is_async = kind == "async"
        self.context = authority.client()

    def below(self, **options: Any) -> Any:
        """Return httpx's own transport."""
        name = "AsyncHTTPTransport" if self.is_async else "HTTPTransport"
        return getattr(self.http, name)(verify=self.context, **options)

    def filter(self, *found: str, below: Any = None, **rules: Any) -> Any:
        """Return the filter, by which every name has these addresses."""
        rules = {"allow_loopback": True, "resolve": lambda host, port: found, **rules}
        return self.egress.EgressTransport(below or self.below(), **rules)

    def send(self, transport: Any, *urls: str, **client: Any) -> list[Any]:
        """Post to each URL in turn by one client; return the responses."""
        client = {"timeout": PATIENCE, "transport": transport, **client}
        if not self.is_async:
            with self.http.Client(**client) as http:
                return [http.post(url, content=b"{}") for url in urls]

        async def run() -> list[Any]:
            async with self.http.AsyncClient(**client) as http:
                return [await http.post(url, content=b"{}") for url in urls]

        return asyncio.run(run())


@pytest.fixture(params=["httpx", "httpx2"])
def package(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["sync", "async"])
def kit(package: str, authority: Authority, request: pytest.FixtureRequest) -> Kit:
    return Kit(package, request.param, authority)


def test_a_name_is_kept_and_its_certificate_verified(kit: Kit, tls: Server) -> None:
    """The address is dialled; SNI, `Host` and the certificate are the name's."""
    url = f"https://{ONE}:{tls.port}/in"
    (response,) = kit.send(kit.filter(HOME), url)
    assert response.status_code == 200
    assert (tls.sni, tls.hosts) == ([ONE], [f"{ONE}:{tls.port}"])
    assert str(response.request.url) == url


def test_a_certificate_for_another_name_is_refused(kit: Kit, tls: Server) -> None:
    """A server that cannot prove the name gets no request."""
    with pytest.raises(kit.http.ConnectError, match=r"(?i)certificate|mismatch"):
        kit.send(kit.filter(HOME), f"https://{THIRD}:{tls.port}/")
    assert (tls.sni, tls.hosts) == ([THIRD], [])


def test_an_address_needs_a_certificate_of_its_own(kit: Kit, tls: Server) -> None:
    """A URL with an address is verified against that address, not against any name."""
    with pytest.raises(kit.http.ConnectError, match=r"(?i)certificate|mismatch"):
        kit.send(kit.filter(), f"https://{HOME}:{tls.port}/")
    assert tls.hosts == []


def test_two_names_at_one_address_share_no_connection(kit: Kit, tls: Server) -> None:
    """Each request has a connection, verified for its own name."""
    one, two = (f"https://{name}:{tls.port}/" for name in (ONE, TWO))
    kit.send(kit.filter(HOME), one, two, one)
    assert tls.sni == [ONE, TWO, ONE]
    assert len(tls.connections) == 3


def test_an_unproved_name_rides_on_no_other(kit: Kit, tls: Server) -> None:
    """After a good name, one whose certificate is missing is refused all the same."""
    urls = [f"https://{name}:{tls.port}/" for name in (ONE, THIRD)]
    with pytest.raises(kit.http.ConnectError, match=r"(?i)certificate|mismatch"):
        kit.send(kit.filter(HOME), *urls)
    assert tls.hosts == [f"{ONE}:{tls.port}"]


@pytest.mark.peer_behaviour
def test_a_pool_knows_no_names(package: str, authority: Authority, tls: Server) -> None:
    """Why no connection is kept: a pool gives one name's to another name."""
    kit = Kit(package, "sync", authority)
    with kit.http.Client(transport=kit.below()) as client:
        for name in (ONE, THIRD):
            client.get(
                f"https://{HOME}:{tls.port}/",
                headers={"Host": name},
                extensions={"sni_hostname": name},
            )
    state(
        (tls.sni, tls.hosts) == ([ONE], [ONE, THIRD]),
        "httpx 0.28.1" if package == "httpx" else "httpx2 2.16.2",
        "a request with another sni_hostname goes over a pooled connection that was "
        "verified for the first one",
    )


def test_the_next_address_is_dialled(kit: Kit, tls: Server) -> None:
    """Where nobody listens at the first address, the second one is dialled."""
    (response,) = kit.send(kit.filter(NOBODY, HOME), f"https://{ONE}:{tls.port}/")
    assert response.status_code == 200
    with pytest.raises(kit.http.ConnectError):
        kit.send(kit.filter(NOBODY), f"https://{ONE}:{tls.port}/")


def test_rebinding(kit: Kit, tls: Server) -> None:
    """A name that changes its answer is dialled at the one that was checked."""
    answers = iter([[HOME], ["10.0.0.7"], [HOME]])
    transport = kit.filter(resolve=lambda host, port: next(answers))
    url = f"https://{ONE}:{tls.port}/"
    with pytest.raises(kit.egress.EgressRefusedError):
        kit.send(transport, url, url)
    assert len(tls.connections) == 1
    assert next(answers) == [HOME]


def test_loopback_is_refused(kit: Kit, plain: Server) -> None:
    """By default nothing on this machine is reached, however it is spelled."""
    transport = kit.egress.EgressTransport(kit.below(), allow_http=True)
    for host in (HOME, "localhost", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "0"):
        with pytest.raises(kit.egress.EgressRefusedError):
            kit.send(transport, f"http://{host}:{plain.port}/")
    for host in ("[::1]", "[::ffff:127.0.0.1]", "[::]"):
        with pytest.raises(kit.egress.EgressRefusedError):
            kit.send(transport, f"http://{host}:{plain.port}/")
    assert plain.connections == []


def test_the_systems_resolver_and_its_own_transport(kit: Kit, plain: Server) -> None:
    """With no transport given and no resolver, both are the usual ones."""
    rules = {"allow_http": True, "allow_loopback": True}
    transport = kit.egress.EgressTransport(**rules)
    (response,) = kit.send(transport, f"http://localhost:{plain.port}/")
    assert response.status_code == 200
    assert plain.hosts == [f"localhost:{plain.port}"]


def test_redirects_are_not_followed(kit: Kit, plain: Server) -> None:
    """A client that follows redirects finds none to follow."""
    transport = kit.filter(HOME, allow_http=True)
    url = f"http://{ONE}:{plain.port}/moved"
    (response,) = kit.send(transport, url, follow_redirects=True)
    assert (response.status_code, response.history) == (302, [])
    assert response.extensions["location"] == "/"
    assert len(plain.hosts) == 1


def test_no_proxy_of_the_environment(
    kit: Kit, plain: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in the environment is not used: it would dial what was not checked."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOME}:1")
        monkeypatch.setenv(name.lower(), f"http://{HOME}:1")
    for below in (kit.below(), None):
        transport = kit.egress.EgressTransport(
            below,
            resolve=lambda host, port: [HOME],
            allow_http=True,
            allow_loopback=True,
        )
        (response,) = kit.send(transport, f"http://{ONE}:{plain.port}/")
        assert response.status_code == 200
    assert plain.hosts == [f"{ONE}:{plain.port}"] * 2


def test_a_refusal_is_not_retried(kit: Kit) -> None:
    """Retries are for what passes, and a refusal does not; a failed lookup does."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["10.0.0.7"] if host == ONE else []

    async def asleep(seconds: float) -> None:
        pass

    transport = kit.retry.RetryTransport(
        kit.filter(resolve=resolve), sleep=lambda seconds: None, asleep=asleep
    )
    with pytest.raises(kit.egress.EgressRefusedError):
        kit.send(transport, f"https://{ONE}/")
    assert asked == [ONE]
    with pytest.raises(kit.http.ConnectError):
        kit.send(transport, f"https://{TWO}/")
    assert asked == [ONE, *[TWO] * 4]


def test_a_cancelled_request_leaves_no_connection(
    package: str, authority: Authority, plain: Server
) -> None:
    """Cancelled while the server hangs, a request closes its connection."""
    kit = Kit(package, "async", authority)
    transport = kit.filter(HOME, allow_http=True)

    async def run() -> None:
        async with kit.http.AsyncClient(transport=transport, timeout=None) as client:
            task = asyncio.create_task(client.get(f"http://{ONE}:{plain.port}/hang"))
            assert await asyncio.to_thread(plain.asked.wait, PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(plain.ended.wait, PATIENCE)

    asyncio.run(run())


def test_many_at_a_time(kit: Kit, tls: Server) -> None:
    """Requests to two names at once each go over a connection for their own name."""
    transport = kit.filter(HOME)
    urls = [f"https://{name}:{tls.port}/" for name in (ONE, TWO)] * 10
    if kit.is_async:

        async def run() -> list[Any]:
            async with kit.http.AsyncClient(transport=transport) as client:
                return await asyncio.gather(*map(client.get, urls))

        responses = asyncio.run(run())
    else:
        with kit.http.Client(transport=transport) as client, ThreadPoolExecutor(8) as p:
            responses = list(p.map(client.get, urls))
    assert {response.status_code for response in responses} == {200}
    assert sorted(tls.sni) == [ONE] * 10 + [TWO] * 10  # type: ignore[type-var]
