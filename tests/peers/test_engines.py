"""The engines and servers that the other tests stand on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hostile import Astray

ROOT = Path(__file__).resolve().parents[2]


def test_postgres_is_real_and_on_the_loopback(postgres_url: str) -> None:
    """The engine is PostgreSQL itself, and listens to this machine only."""
    import psycopg

    with psycopg.connect(postgres_url) as connection:
        settings = connection.execute(
            "SELECT version(), current_setting('listen_addresses'), "
            "inet_server_addr() <<= '127.0.0.0/8'"
        ).fetchone()
    assert settings is not None
    assert settings[0].startswith("PostgreSQL ")
    if "KIT_POSTGRES_URL" not in os.environ:
        assert settings[1:] == ("127.0.0.1", True)


def test_a_schema_is_empty_and_the_tests_own(postgres_schema: str) -> None:
    """A table that a test makes lands in a schema of its own, not in the shared one."""
    import psycopg

    with psycopg.connect(postgres_schema) as connection:
        connection.execute("CREATE TABLE only_here (id INTEGER)")
        found = connection.execute(
            "SELECT schemaname FROM pg_tables WHERE tablename = 'only_here'"
        ).fetchall()
    assert [name.startswith("kit_") for (name,) in found] == [True]


def test_a_server_that_does_not_start_says_why(launch: Callable[..., str]) -> None:
    """What a server said before it ended stands in the error."""
    script = "import sys; print('no such option'); sys.exit(3)"
    with pytest.raises(RuntimeError, match=r"ended with 3\s+no such option"):
        launch(sys.executable, "-c", script)


def test_two_apps_are_two_origins(serve: Callable[[Any], str]) -> None:
    """Each app gets a port of its own on the loopback, and answers at once."""
    apps = Astray(("one", None)), Astray(("two", None))
    addresses = [serve(app) for app in apps]
    answers = [httpx.get(address, trust_env=False).json() for address in addresses]
    assert answers == ["one", "two"]
    assert {httpx.URL(address).host for address in addresses} == {"127.0.0.1"}


@pytest.mark.parametrize("required", ["", "1"])
def test_a_missing_engine_skips_or_fails_as_told(tmp_path: Path, required: str) -> None:
    """Without Node a test is skipped with the reason, or fails where Node is a must."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"),
            *("-o", "addopts=--import-mode=importlib"),
            *("tests/peers/test_json_server.py", "-k", "link_header and httpx-sync"),
        ],
        env={**os.environ, "PATH": str(tmp_path), "KIT_REQUIRE_NODE": required},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "no Node: install Node" in done.stdout
    assert done.returncode == (1 if required else 0)
    assert ("1 error" if required else "1 skipped") in done.stdout
