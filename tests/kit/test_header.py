"""The header line, the hash, and the fit of a copy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patterns._kit.catalogue import catalogue
from patterns._kit.copier import Kit
from patterns._kit.header import Fit, Header, digest


@given(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
    st.from_regex(r"[0-9]{1,2}(\.[0-9]{1,2}){1,2}((a|rc)[0-9])?", fullmatch=True),
    st.from_regex(r"[a-z_]{1,12}/[a-z0-9_]{1,12}", fullmatch=True),
    st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
)
def test_a_header_reads_what_it_writes(
    distribution: str, version: str, name: str, sha256: str
) -> None:
    """Writing and reading a header are each other's inverse."""
    header = Header(distribution, version, name, sha256)
    assert Header.parse(str(header)) == header


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# api-integration-patterns 0.1.0: walker sha256:0011223344556677",
        "# api-integration-patterns 0.1.0: paging/walker sha256:00112233",
        "# api-integration-patterns 0.1.0: paging/walker sha256:00112233445566zz",
        "# api-integration-patterns 0.1.0: paging/walker sha256:0011223344556677 x",
        "api-integration-patterns 0.1.0: paging/walker sha256:0011223344556677",
    ],
)
def test_other_lines_are_no_header(line: str) -> None:
    """A line of nearly the form is somebody's comment."""
    assert Header.parse(line) is None


@pytest.mark.parametrize("name", sorted(Kit().shipped))
def test_a_header_passes_a_linter(name: str) -> None:
    """The line fits into 88 columns, so that a copy passes the user's linter."""
    assert len(str(Kit().header(name))) <= 88


def test_the_hash_is_that_of_the_text_with_plain_newlines() -> None:
    """The digest is the start of the SHA-256 that `sha256sum` prints."""
    assert digest("a\r\n") == digest("a\n") == "87428fc522803d31"


@pytest.mark.parametrize("name", sorted(Kit().shipped))
def test_a_fit_can_be_read_back(name: str) -> None:
    """What `add` puts on a text is what the other commands read from the copy."""
    text = Kit().text(name)
    plain = Fit.of(text, name)
    assert plain.on(text, name) == text
    fit = Fit(
        "httpx2" if plain.http else None, plain.imports and f"from acme import {name}"
    )
    if fit.imports:
        fit = Fit(fit.http, f"from acme import {name.rpartition('/test_')[2]}")
    assert Fit.of(fit.on(text, name), name) == fit


def test_only_the_script_block_and_the_import_line_change() -> None:
    """Prose, strings and other packages that say httpx stay."""
    text = (
        "# /// script\n"
        '# dependencies = ["httpx[http2]>=0.28.1", "httpx-sse>=0.4", "redis"]\n'
        "# ///\n"
        '"""Uses "httpx>=0.28.1"."""\n'
        "import httpx\n"
        "import httpx_sse\n"
        's = "import httpx"\n'
    )
    assert Fit("httpx2").on(text, "a/b") == (
        "# /// script\n"
        '# dependencies = ["httpx2[http2]>=2.16", "httpx-sse>=0.4", "redis"]\n'
        "# ///\n"
        '"""Uses "httpx>=0.28.1"."""\n'
        "import httpx2 as httpx\n"
        "import httpx_sse\n"
        's = "import httpx"\n'
    )


def test_every_pattern_has_a_header_name() -> None:
    """Names in the tree fit the grammar, and no pattern is called like a test."""
    for pattern in catalogue():
        header = Header("a", "1", pattern.name, "0" * 16)
        assert Header.parse(str(header)) == header
        assert not pattern.stem.startswith("test_")
