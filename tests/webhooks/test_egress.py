"""Tests of `patterns/webhooks/egress.py`; they can be copied along with it."""

import asyncio
import ipaddress
import json
import pickle
import socket
import threading
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from patterns.webhooks import egress

URL = "https://hooks.test/in?token=t0ken"
PUBLIC, OTHER, INSIDE = "1.1.1.1", "2606:4700::1111", "10.0.0.7"


def vectors(name):
    """Return the vectors kept in the nearest `vectors` folder."""
    for folder in Path(__file__).resolve().parents:
        if (folder / "vectors" / name).exists():
            return json.loads((folder / "vectors" / name).read_text("utf-8"))
    raise FileNotFoundError(name)


class Below(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A network: it notes each request, and fails at the addresses in `dead`."""

    def __init__(self, dead=(), **answer):
        self.dead, self.answer = dead, {"status_code": 200, **answer}
        self.requests, self.closed = [], []

    def handle_request(self, request):
        self.requests.append(request)
        if request.url.host in self.dead:
            raise self.dead[request.url.host]
        request.read()
        return httpx.Response(**self.answer)

    async def handle_async_request(self, request):
        return self.handle_request(request)

    def close(self):
        self.closed.append("close")

    async def aclose(self):
        self.closed.append("aclose")

    @property
    def dialled(self):
        """The hosts that were dialled, in order."""
        return [request.url.host for request in self.requests]


@pytest.fixture(params=["sync", "async"])
def kind(request):
    """Return the kind of client that a test uses."""
    return request.param


def names(*answers):
    """Return a resolver that gives each answer in turn, and the last for ever."""
    left = list(answers)

    def resolve(host, port):
        resolve.asked.append((host, port))
        return left.pop(0) if len(left) > 1 else left[0]

    resolve.asked = []
    return resolve


def send(kind, transport, url=URL, method="POST", *, times=1, client=None, **request):
    """Send a request by a client of a kind, and return the last response."""
    options = {"transport": transport, **(client or {})}
    if kind == "sync":
        with httpx.Client(**options) as http:
            return [http.request(method, url, **request) for _ in range(times)][-1]

    async def run():
        async with httpx.AsyncClient(**options) as http:
            return [await http.request(method, url, **request) for _ in range(times)]

    return asyncio.run(run())[-1]


def refusal(url, **rules):
    """Return why a URL is refused."""
    with pytest.raises(egress.EgressRefusedError) as caught:
        egress.check_url(url, **rules)
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is None
    return caught.value.reason


# --- addresses

REFUSED = [  # written apart from the module's list: the registries of IANA
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12",
    "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15",
    "198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 ::/96 64:ff9b::/96",
    "64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16",
    "fc00::/7 fe80::/10 fec0::/10 ff00::/8",
]
NETWORKS = [ipaddress.ip_network(text) for text in " ".join(REFUSED).split()]


@pytest.mark.parametrize(
    "vector", vectors("egress_addresses.json"), ids=lambda vector: vector["address"]
)
def test_vectors(vector):
    """Each address is deliverable or not, as the vectors have it."""
    assert egress.is_deliverable(vector["address"]) is vector["deliverable"]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_networks_from_end_to_end(network):
    """The first and the last address of a network are refused, mapped ones as well."""
    for address in (network[0], network[-1]):
        assert not egress.is_deliverable(address)
        assert not egress.is_deliverable(str(address))
        if address.version == 4:
            assert not egress.is_deliverable(f"::ffff:{address}")


NEIGHBOURS = [
    "1.0.0.0 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255",
    "128.0.0.0 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0",
    "191.255.255.255 192.0.1.0 192.0.3.0 192.88.98.255 192.88.100.0",
    "192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 198.51.99.255",
    "198.51.101.0 203.0.112.255 203.0.114.0 223.255.255.255 2001:200::",
    "2001:db7:ffff:: 2001:db9:: 2003:: 2400:: 2606:4700::1 2a00:1450:4001::1",
    "3ffe:ffff:: 0:0:0:ffff::1 2001:4860:4860::8888",
]


@pytest.mark.parametrize("addresses", NEIGHBOURS)
def test_neighbours_of_networks(addresses):
    """What lies just beside a network is deliverable."""
    for each in addresses.split():
        assert egress.is_deliverable(each), each


ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6)
INSIDES = st.sampled_from(NETWORKS).flatmap(lambda net: st.ip_addresses(network=net))


@given(ADDRESSES | INSIDES)
def test_any_address(address):
    """An address is deliverable if it is in no refused network, and is then global."""
    plain = getattr(address, "ipv4_mapped", None) or address
    wanted = not any(plain in network for network in NETWORKS)
    assert egress.is_deliverable(str(address)) is wanted
    assert egress.is_deliverable(address) is wanted
    assert not wanted or plain.is_global


@given(st.ip_addresses(v=4))
@example(ipaddress.IPv4Address("169.254.169.254"))
@example(ipaddress.IPv4Address("8.8.8.8"))
def test_translated_addresses(address):
    """An IPv6 form that leads to an IPv4 address is deliverable at most as that is."""
    inner = egress.is_deliverable(address)
    for prefix in ("::ffff:", "::ffff:0:", "2a00::5efe:", "2a00::200:5efe:"):
        assert egress.is_deliverable(f"{prefix}{address}") is inner
    six_to_four = (0x2002 << 112) | (int(address) << 80) | 1
    for never in (f"64:ff9b::{address}", f"64:ff9b:1::{address}", f"::{address}"):
        assert not egress.is_deliverable(never)
    assert not egress.is_deliverable(ipaddress.IPv6Address(six_to_four))


@pytest.mark.parametrize(
    "address",
    [
        *("", " ", "8.8.8", "8.8.8.8 ", "8.8.8.8\n", "8.8.8.8/32", "8.8.8.08"),
        *("0x8.8.8.8", "134744072", "8.8.8.8.", "８.8.8.8", "8.8.8.8%1", "::ffff:8"),
        *("[2606:4700::1]", "2606:4700::1%eth0", "2606:4700::1%", "fe80::1%25eth0"),
        *("::ffff:8.8.8.8%1", "8.8.8.8" + "\0", "hooks.test", "8.8.8.8" * 100_000),
        *("2606:4700::1/64", Path("8.8.8.8")),
        *(134744072, 1.5, True, None, b"8.8.8.8", b"\x08\x08\x08\x08", ["8.8.8.8"]),
        ipaddress.ip_network("8.8.8.8/32"),
        ipaddress.ip_interface("8.8.8.8/24"),
        ipaddress.ip_interface("2606:4700::1/64"),
    ],
    ids=lambda address: repr(address)[:20],
)
def test_no_plain_address(address):
    """Odd spellings, zones, networks, numbers and other things are not deliverable."""
    assert egress.is_deliverable(address) is False


@given(st.text() | st.binary() | st.integers() | st.none() | st.text("0189.:afx%/"))
def test_nothing_raises(thing):
    """Whatever is asked about, the answer is yes or no."""
    assert egress.is_deliverable(thing) in (True, False)


# --- URLs


@pytest.mark.parametrize(
    "url",
    [
        *("https://hooks.test", "https://hooks.test/", "HTTPS://Hooks.Test/a?b#c"),
        *("https://hooks.test:8443/in", "https://a_b.hooks.test/", "https://1.a.test"),
        *("https://xn--bcher-kva.example/", "https://x.xn--p1ai", "https://1.1.1.1/"),
        *("https://[2606:4700::1]/", "https://" + "a." * 120 + "test"),
        "https://" + "a" * 63 + ".test",
        "https://hooks.test/" + "a" * 7981,
    ],
    ids=lambda url: url[:40],
)
def test_urls_that_pass(url):
    """Names of the internet and plain public addresses pass, at any port."""
    egress.check_url(url)
    egress.check_url(httpx.URL(url))


HOSTS = [  # spellings that some resolver or parser takes for an address, and others
    *("2130706433", "0177.0.0.1", "017700000001", "0x7f000001", "0x7f.0.0.1"),
    *("0X7F.1", "127.1", "127.0.1", "0", "1", "1.1.1", "1.1.1.256", "1.1.1.1.1"),
    *("127.0.0.1.", "1.1.1.1.", "1.1.1.1..", "01.1.1.1", "1.1.1.01", "0x1.1.1.1"),
    *("1.1.1.0x1", "[::ffff:8.8.8.8]", "[::ffff:808:808]", "[::ffff:127.0.0.1]"),
    *("[2606:4700::1%eth0]", "[2606:4700::1%25eth0]", "[::1%25lo]", "[1.1.1.1]"),
    *("[2606:4700:0:0::1]", "[2606:4700::ABCD]", "[2606:4700:0000::1]", "[::1"),
    *("[2606::1.1.1.1]", "[]", "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "①.1.1.1"),
    *("１２７.0.0.1", "127。0。0。1", "1.1.1.1%00.hooks.test", "hooks.test%00"),
    *("hooks.test%2f", "hooks.test\\", "hooks.test ", "hooks\u00ad.test"),
    *("\ud800.test", "hooks..test", ".test", "hooks.test.", "hooks.test..", ""),
    *("-a.test", "a-.test", "a.-test", "a.t-", "a.1", "a.0x", "a!b.test", "a,b.test"),
    *("a" * 64 + ".test", "a." * 125 + "test", "a" * 8001 + ".test", "intranet"),
    *("localhost", "LOCALHOST", "localhost.", "a.localhost", "printer.local"),
    *("db.internal", "metadata.google.internal", "nas.home.arpa", "hooks.test:0"),
    *("hooks.test:99999", "hooks.test:-1", "hooks.test:x", "hooks.test:" + "1" * 5000),
    "hooks.test:" + "1" * 4000,
    *("user@hooks.test", "user:pa55@hooks.test", "1.1.1.1\\@127.0.0.1"),
    *("1.1.1.1@127.0.0.1", "127.0.0.1", "10.0.0.7", "169.254.169.254", "[::1]"),
    *("[fd00::1]", "[64:ff9b::808:808]"),
]
NOT_ASCII = ["bücher.example", "hooks.test:٣"]  # which httpx reads in its own way


@pytest.mark.parametrize("host", HOSTS + NOT_ASCII, ids=lambda host: ascii(host)[:30])
def test_hosts_refused(host):
    """Odd spellings, local names and private addresses are refused, with a reason."""
    for url in (f"https://{host}/?token=t0ken", f"https://{host}"):
        with pytest.raises(egress.EgressRefusedError) as caught:
            egress.check_url(url)
        assert caught.value.reason in ("url", "host", "userinfo", "port", "address")
        assert "t0ken" not in f"{caught.value} {caught.value!r}"
        assert "pa55" not in f"{caught.value} {caught.value!r}"
        assert len(str(caught.value)) < 120


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: ascii(host)[:30])
def test_nothing_is_sent_to_hosts_refused(kind, host):
    """A client that is given such a URL fails, without a lookup or a connection."""
    below, resolve = Below(), names([PUBLIC])
    transport = egress.EgressTransport(below, resolve=resolve)
    with pytest.raises((httpx.TransportError, httpx.InvalidURL, ValueError)):
        send(kind, transport, f"https://{host}/")
    assert (below.dialled, resolve.asked) == ([], [])


def test_reasons():
    """Each reason is told by its word, and the URL by none."""
    assert refusal("http://hooks.test") == "scheme"
    assert refusal("ftp://hooks.test", allow_http=True) == "scheme"
    assert refusal("//hooks.test") == "scheme"
    assert refusal("https://user:pa55@hooks.test") == "userinfo"
    assert refusal("https://hooks.test:0") == "port"
    assert refusal("https://hooks.test:65536") == "port"
    assert refusal("https://127.1") == "host"
    assert refusal("https:///in") == "host"
    assert refusal("https://10.0.0.7") == "address"
    assert refusal("https://hooks.test/ü") == "url"
    assert refusal("https://hooks.test/" + "a" * 7982) == "url"
    assert refusal("https://hooks.test:x/") == "url"
    assert refusal("") == "url"
    pickled = pickle.loads(pickle.dumps(egress.EgressRefusedError("no", reason="x")))
    assert (str(pickled), pickled.reason, pickled.address) == ("no", "x", None)
    for thing in (None, 5, b"https://hooks.test", ["https://hooks.test"]):
        assert refusal(thing) == "url"


def test_rules():
    """Plain http, loopback and a choice of ports are for an argument to allow."""
    egress.check_url("http://hooks.test", allow_http=True)
    for url in ("https://127.0.0.1:8000", "https://[::1]", "https://localhost:1"):
        egress.check_url(url, allow_loopback=True)
    egress.check_url("https://a.localhost", allow_loopback=True)
    assert refusal("https://10.0.0.7", allow_loopback=True) == "address"
    assert refusal("https://intranet", allow_loopback=True) == "host"
    for host in ("127.1", "localhost.", "a..localhost", "%00.localhost", "a.local"):
        assert refusal(f"https://{host}", allow_loopback=True) == "host"
    egress.check_url("https://hooks.test", ports=[443])
    egress.check_url("http://hooks.test", ports=[80], allow_http=True)
    assert refusal("https://hooks.test:8443", ports={443}) == "port"
    assert refusal("https://hooks.test", ports=()) == "port"


PIECES = [
    *("https://", "http://", "127.0.0.1", "1.1.1.1", "hooks.test", "localhost"),
    *("[::1]", "[", "]", "@", ":", "/", "//", "\\", "?", "#", "%", ".", "%2e", "0x7f"),
    *("2130706433", "0177", ":443", ":0", "٣", "１", "。", "ü", "\ud800", "\0", "\n"),
    *(" ", "xn--"),
]


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_any_url(url):
    """A URL passes or is refused; one that passes leads to no plain inner address."""
    try:
        egress.check_url(url)
    except egress.EgressRefusedError:
        return
    host = httpx.URL(url).raw_host.decode()
    assert host.rpartition(".")[2][:1].isalpha() or egress.is_deliverable(host)


# --- the transport


def test_dials_the_address_and_keeps_the_name(kind):
    """The address is dialled; path, port, body, `Host` and SNI are the caller's."""
    below = Below()
    transport = egress.EgressTransport(below, resolve=names([PUBLIC]))
    url = "https://hooks.test:8443/a%2Fb;c/ü?q=%20x&y=/"
    response = send(kind, transport, url, content=b"body")
    (sent,) = below.requests
    assert str(sent.url) == "https://1.1.1.1:8443/a%2Fb;c/%C3%BC?q=%20x&y=/"
    assert sent.headers["host"] == "hooks.test:8443"
    assert sent.extensions["sni_hostname"] == "hooks.test"
    assert (sent.method, sent.content) == ("POST", b"body")
    assert sent.headers["content-length"] == "4"
    assert "timeout" in sent.extensions
    assert response.request.url == httpx.URL(url)


@given(st.text("aZ09%2f/;,:@&=+$!*'()~_ .?#ü\"<>{}|^`[]\\", max_size=30))
def test_any_path_is_kept(tail):
    """The request's target is the same at the address, whatever is in it."""
    below, url = Below(), httpx.URL("https://hooks.test/" + tail)
    send("sync", egress.EgressTransport(below, resolve=names([OTHER])), url)
    assert below.requests[0].url.raw_path == url.raw_path


def test_the_callers_request_stays_as_it_is(kind):
    """What the caller sent has its URL, headers and extensions as before."""
    extensions = {"sni_hostname": "x", "timeout": {}}
    request = httpx.Request("POST", URL, content=b"x", extensions=extensions)
    before = (request.url, request.headers.raw, dict(request.extensions))
    below = Below()
    transport = egress.EgressTransport(below, resolve=names([PUBLIC]))
    if kind == "sync":
        with httpx.Client(transport=transport) as client:
            response = client.send(request)
    else:

        async def run():
            async with httpx.AsyncClient(transport=transport) as client:
                return await client.send(request)

        response = asyncio.run(run())
    assert response.request is request
    assert before == (request.url, request.headers.raw, request.extensions)
    assert below.requests[0].extensions["sni_hostname"] == "hooks.test"


def test_rebinding(kind):
    """The checked address is dialled, and each request is checked anew."""
    resolve = names([PUBLIC], [INSIDE])
    below = Below()
    transport = egress.EgressTransport(below, resolve=resolve)
    with pytest.raises(egress.EgressRefusedError) as caught:
        send(kind, transport, times=2)
    assert below.dialled == [PUBLIC]
    assert resolve.asked == [("hooks.test", 443)] * 2
    assert (caught.value.reason, caught.value.address) == ("address", INSIDE)


@pytest.mark.parametrize(
    "answer",
    [
        [INSIDE],
        [PUBLIC, INSIDE],
        [INSIDE, PUBLIC],
        [PUBLIC] * 5 + ["fe80::1%eth0"],
        [PUBLIC, "junk"],
        [PUBLIC, None],
        ["127.0.0.1"],
        ["::ffff:10.0.0.7"],
        [f"9.9.{i}.{j}" for i in range(15) for j in range(255)] + [INSIDE],
    ],
    ids=lambda answer: str(answer)[:20],
)
def test_one_bad_address_refuses_the_name(kind, answer):
    """A name with an address that is not public is refused, wherever that stands."""
    below = Below()
    transport = egress.EgressTransport(below, resolve=names(answer))
    with pytest.raises(egress.EgressRefusedError) as caught:
        send(kind, transport)
    assert below.dialled == []
    assert caught.value.address in (INSIDE, *map(str, answer[-1:]))
    assert "hooks.test" in str(caught.value)
    assert caught.value.address not in f"{caught.value} {caught.value!r}"
    assert "t0ken" not in f"{caught.value} {caught.value!r}"
    assert str(caught.value.request.url) == URL


def test_mapped_addresses_are_dialled_as_what_they_are(kind):
    """An IPv4-mapped answer is dialled as the IPv4 address that was checked."""
    below = Below()
    transport = egress.EgressTransport(below, resolve=names(["::ffff:1.1.1.1"]))
    send(kind, transport)
    assert below.dialled == [PUBLIC]


def test_addresses_are_asked_for_no_name(kind):
    """A URL with an address is checked and dialled without a lookup."""
    below, resolve = Below(), names(["9.9.9.9"])
    transport = egress.EgressTransport(below, resolve=resolve, allow_http=True)
    send(kind, transport, "http://[2606:4700::1111]:81/")
    (sent,) = below.requests
    assert (sent.url.host, sent.headers["host"]) == (OTHER, f"[{OTHER}]:81")
    assert sent.extensions["sni_hostname"] == OTHER
    assert resolve.asked == []


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout])
def test_the_next_address_is_tried(kind, error):
    """Where nothing was sent, the next address gets the same request."""
    below = Below(dead={PUBLIC: error("no")})
    transport = egress.EgressTransport(below, resolve=names([PUBLIC, PUBLIC, OTHER]))
    assert send(kind, transport, content=b"body").status_code == 200
    assert below.dialled == [PUBLIC, OTHER]
    assert below.requests[1].content == b"body"


def test_addresses_tried_are_bounded(kind):
    """Of many addresses four are tried, and the last one's error is raised."""
    many = [f"9.9.9.{last}" for last in range(200)]
    dead = {address: httpx.ConnectError(address) for address in many}
    below = Below(dead=dead)
    transport = egress.EgressTransport(below, resolve=names(many))
    with pytest.raises(httpx.ConnectError, match=r"9\.9\.9\.3"):
        send(kind, transport)
    assert below.dialled == many[:4]


def test_what_may_have_arrived_is_not_sent_again(kind):
    """An error after the connection was made ends it."""
    below = Below(dead={PUBLIC: httpx.ReadTimeout("no")})
    transport = egress.EgressTransport(below, resolve=names([PUBLIC, OTHER]))
    with pytest.raises(httpx.ReadTimeout):
        send(kind, transport)
    assert below.dialled == [PUBLIC]


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (socket.gaierror(-2, "Name or service not known"), httpx.ConnectError),
        (OSError("broken"), httpx.ConnectError),
        (TimeoutError("late"), httpx.ConnectTimeout),
        (None, httpx.ConnectError),
    ],
    ids=["gaierror", "oserror", "timeout", "empty"],
)
def test_lookups_that_fail(kind, failure, error):
    """A lookup that fails is a connection that was not made, so it may be retried."""

    def resolve(host, port):
        if failure:
            raise failure
        return []

    below = Below()
    with pytest.raises(error, match=r"hooks\.test") as caught:
        send(kind, egress.EgressTransport(below, resolve=resolve))
    assert not isinstance(caught.value, egress.EgressRefusedError)
    assert caught.value.__cause__ is failure
    assert below.dialled == []


def test_an_async_resolver():
    """An async client takes a resolver that is async."""

    async def resolve(host, port):
        return [PUBLIC]

    below = Below()
    send("async", egress.EgressTransport(below, resolve=resolve))
    assert below.dialled == [PUBLIC]


def test_lookups_of_one_host_are_bounded(monkeypatch):
    """Lookups that hang hold a few threads of the transport's own, and no others."""
    go = threading.Event()

    def hang(host, port, **_):
        assert go.wait(20)
        return [(2, 1, 6, "", ("8.8.8.8", port))]

    monkeypatch.setattr(socket, "getaddrinfo", hang)

    async def main():
        lookups = egress._Lookups()
        work = [asyncio.ensure_future(lookups("slow.test", 443)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="too many"):
            await lookups("slow.test", 443)
        go.set()
        assert await lookups("other.test", 443) == ["8.8.8.8"]
        assert await asyncio.gather(*work) == [["8.8.8.8"]] * 4
        assert lookups._under_way["slow.test"] == 0
        lookups.pool.shutdown()

    asyncio.run(main())


def test_a_lookup_that_hangs():
    """An async lookup ends with the timeout for connecting, or with its task."""
    cancelled = []

    async def resolve(host, port):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(host)
            raise

    transport = egress.EgressTransport(Below(), resolve=resolve)
    with pytest.raises(httpx.ConnectTimeout, match="took too long"):
        send("async", transport, timeout=httpx.Timeout(5, connect=0))

    async def run():
        async with httpx.AsyncClient(transport=transport, timeout=None) as client:
            task = asyncio.create_task(client.post(URL))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert cancelled == ["hooks.test"] * 2


def test_the_systems_resolver(kind, monkeypatch):
    """By default `getaddrinfo` is asked, once a request, for TCP."""
    asked = []

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        asked.append((host, port, type))
        ends = [(PUBLIC, port), (OTHER, port, 0, 0), ("fe80::1%eth0", port, 0, 2)]
        found = ends[:2] if len(asked) == 1 else ends
        return [(0, type, proto, "", end) for end in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    below = Below(dead={PUBLIC: httpx.ConnectError("no")})
    transport = egress.EgressTransport(below, allow_http=True)
    with pytest.raises(egress.EgressRefusedError) as caught:
        send(kind, transport, "http://hooks.test", times=2)
    assert caught.value.address == "fe80::1%eth0"
    assert asked == [("hooks.test", 80, socket.SOCK_STREAM)] * 2
    assert below.dialled == [PUBLIC, OTHER]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("place", ["https://other.test/", "/in", "https://["])
def test_redirects(kind, status, place):
    """A redirect comes back with its status, and no client follows it."""
    below = Below(status_code=status, headers={"location": place})
    transport = egress.EgressTransport(below, resolve=names([PUBLIC]))
    response = send(kind, transport, client={"follow_redirects": True})
    assert response.status_code == status
    assert response.next_request is None
    assert "location" not in response.headers
    assert response.extensions["location"] == place
    assert len(below.requests) == 1


def test_other_locations_stay(kind):
    """The place of what was created is no redirect."""
    below = Below(status_code=201, headers={"location": "/new"})
    transport = egress.EgressTransport(below, resolve=names([PUBLIC]))
    assert send(kind, transport).headers["location"] == "/new"


def test_no_connection_is_kept(kind):
    """Each request says that its connection ends, whatever the caller asked for."""
    below = Below()
    transport = egress.EgressTransport(below, resolve=names([PUBLIC]))
    send(kind, transport, headers={"Connection": "keep-alive"})
    assert below.requests[0].headers.get_list("connection") == ["close"]


def test_loopback_for_tests(kind):
    """Loopback is reached where an argument allows it, and nothing else inside."""
    below = Below()
    resolve = names(["127.0.0.1", "::1"], ["127.0.0.2", INSIDE])
    rules = {"allow_loopback": True, "allow_http": True, "ports": [8000]}
    transport = egress.EgressTransport(below, resolve=resolve, **rules)
    with pytest.raises(egress.EgressRefusedError) as caught:
        send(kind, transport, "http://localhost:8000/", times=2)
    assert (below.dialled, caught.value.address) == (["127.0.0.1"], INSIDE)
    with pytest.raises(egress.EgressRefusedError) as caught:
        send(kind, transport, "http://localhost:8001/")
    assert caught.value.reason == "port"


def test_closing(kind):
    """Closing a client closes the transport below, in its own way."""
    below = Below()
    send(kind, egress.EgressTransport(below, resolve=names([PUBLIC])))
    assert below.closed == ["close" if kind == "sync" else "aclose"]


def test_its_own_transport(kind):
    """Without one given there is httpx's own, for either kind, and it is closed."""
    transport = egress.EgressTransport(resolve=names([INSIDE]))
    with pytest.raises(egress.EgressRefusedError):
        send(kind, transport)
