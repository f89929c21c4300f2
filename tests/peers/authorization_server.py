"""A certified authorization server with its clients, and a user with a browser.

The server is oidc-provider from npm (`oidc_provider.mjs`). It rotates refresh tokens
and ends the family of one that comes twice, requires PKCE, and keeps all in memory.
"""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
from joserfc.jwk import ECKey

PACKAGE = "oidc-provider@9.13.3"
SCRIPT = Path(__file__).with_name("oidc_provider.mjs")
TTL = 600  # seconds that an access token lives
SCOPES = ("openid", "offline_access", "read", "write")
#: An access token for a resource is a JWT signed by its algorithm; without one, opaque.
RESOURCES = {
    "https://api.example.test/": "RS256",
    "https://es.example.test/": "ES256",
    "https://ed.example.test/": "Ed25519",
}
# It does not speak TLS, and reading the certificates takes a while.
PLAIN: dict[str, Any] = {"trust_env": False, "verify": False, "timeout": 30}
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


@dataclass(frozen=True)
class Registered:
    """A client of the server. `client_auth` is as in `oauth2`, or `private_key_jwt`."""

    client_id: str
    client_secret: str | None = None
    client_auth: str = "basic"
    grants: tuple[str, ...] = ("client_credentials",)
    private_key: dict[str, Any] | None = None
    members: dict[str, Any] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        """Return what the server is told of it (RFC 7591 §2)."""
        methods = {"basic": "client_secret_basic", "post": "client_secret_post"}
        browser = "authorization_code" in self.grants
        known: dict[str, Any] = {
            "client_id": self.client_id,
            "grant_types": self.grants,
            "response_types": ["code"] if browser else [],
            "redirect_uris": ["http://127.0.0.1/callback"] if browser else [],
            "token_endpoint_auth_method": methods.get(
                self.client_auth, self.client_auth
            ),
        }
        if self.client_secret is not None:
            known["client_secret"] = self.client_secret
        if self.private_key is not None:
            public = {k: v for k, v in self.private_key.items() if k != "d"}
            known["jwks"] = {"keys": [public]}
            known["token_endpoint_auth_signing_alg"] = "ES256"
        return known | self.members


def registered() -> dict[str, Registered]:
    """Return the clients by name. Their secrets break whoever does not encode them."""
    secret = "p%ss w+rd:/~x"
    key = ECKey.generate_key("P-256", {"kid": "client-es", "use": "sig"})
    browser = ("authorization_code", "refresh_token", DEVICE)
    native = {"application_type": "native"}
    bound = {"dpop_bound_access_tokens": True}
    clients = [
        Registered("cc", secret),
        Registered("cc-post", secret, "post"),
        Registered(
            "cc-pkjwt", None, "private_key_jwt", private_key=key.as_dict(private=True)
        ),
        Registered("native", None, "none", browser, members=native),
        Registered("native-dpop", None, "none", browser, members=native | bound),
        Registered("dpop", secret, members=bound),
        Registered("rs", secret, grants=()),  # a resource server: introspects
    ]
    return {client.client_id: client for client in clients}


class AuthorizationServer:
    """A server that runs. `resource` is what JWT access tokens are for.

    The clients `dpop` and `native-dpop` get tokens bound to a key, and from `dpop` a
    nonce is required.
    """

    def __init__(
        self, launch: Callable[..., str], node: str, npm_package: Callable[..., Path]
    ) -> None:
        self.clients, self.resources = registered(), RESOURCES
        self.resource = next(iter(RESOURCES))
        settings = {
            "clients": [client.metadata() for client in self.clients.values()],
            "resources": RESOURCES,
            "nonceFor": ["dpop"],
            "scopes": SCOPES,
            "ttl": TTL,
        }
        folder = npm_package(PACKAGE)
        self.issuer = launch(node, SCRIPT, folder, "{port}", json.dumps(settings))
        self.token_url = f"{self.issuer}/token"
        self.authorization_url = f"{self.issuer}/auth"
        self.par_url = f"{self.issuer}/request"
        self.device_authorization_url = f"{self.issuer}/device/auth"
        self.introspection_url = f"{self.issuer}/token/introspection"
        self.revocation_url = f"{self.issuer}/token/revocation"
        self.jwks_uri = f"{self.issuer}/jwks"
        self.userinfo_url = f"{self.issuer}/me"

    def token_requests(self) -> int:
        """Return how many requests the token endpoint has had."""
        answer = httpx.get(f"{self.issuer}/_counts", **PLAIN)
        return int(answer.json()["token"])

    def forget(self, token: str) -> None:
        """End an opaque access token of a user, and nothing else of the grant."""
        address = f"{self.issuer}/_forget/{token}"
        httpx.get(address, **PLAIN).raise_for_status()

    def introspect(self, token: str) -> dict[str, Any]:
        """Return what the server says of a token that is not a JWT."""
        secret = quote_plus(self.clients["rs"].client_secret or "")
        answer = httpx.post(
            self.introspection_url,
            data={"token": token},
            auth=("rs", secret),
            **PLAIN,
        )
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    # What a user does in a browser that is new each time.

    def sign_in(self, url: str, login: str = "ada", *, agree: bool = True) -> str:
        """Follow an authorization URL, and return where the browser is sent back to."""
        with self._browser() as browser:
            return self._fill(browser, browser.get(url), login, agree)

    def browse(self, url: str) -> threading.Thread:
        """Sign in as another thread would, and go to where the browser is sent back."""

        def work() -> None:
            httpx.get(self.sign_in(url), **PLAIN)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def enter(self, user_code: str, login: str = "ada", *, agree: bool = True) -> None:
        """Enter the code of a device, and sign in, or abort."""
        with self._browser() as browser:
            page = browser.get("/device")
            form = {**_hidden(page), "user_code": user_code}
            page = browser.post("/device", data=form)
            answer = {"confirm": "yes"} if agree else {"abort": "yes"}
            page = browser.post("/device", data={**_hidden(page), **answer})
            if agree:
                self._fill(browser, page, login, agree)

    def _browser(self) -> httpx.Client:
        return httpx.Client(base_url=self.issuer, **PLAIN)

    def _fill(
        self, browser: httpx.Client, page: httpx.Response, login: str, agree: bool
    ) -> str:
        """Answer each form, until there is none or the browser is sent elsewhere."""
        for _ in range(12):
            if page.is_redirect:
                place = str(page.url.join(page.headers["location"]))
                if not place.startswith(f"{self.issuer}/"):
                    return place
                page = browser.get(place)
                continue
            form = _hidden(page)
            if "prompt" not in form:
                assert page.status_code == 200, page.text
                return str(page.url)
            if not agree:
                page = browser.get(f"{page.url}/abort")
                continue
            who = {"login": login, "password": "x"} if form["prompt"] == "login" else {}
            page = browser.post(str(page.url), data={**form, **who})
        raise AssertionError("the forms do not end")


def _hidden(page: httpx.Response) -> dict[str, str]:
    """Return the hidden fields of the forms on a page."""
    fields = {}
    for tag in re.findall(r"<input[^>]*>", page.text):
        found = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        if found.get("type") == "hidden":
            fields[found["name"]] = html.unescape(found.get("value", ""))
    return fields
