"""State what somebody else's release does, so that news about it is told as such."""

from __future__ import annotations

from importlib.metadata import version

import pytest


def state(holds: bool, seen_in: str, claim: str, installed: str = "") -> None:
    """Check a claim about a peer; where it no longer holds, say what that means."""
    installed = installed or version(seen_in.split()[0])
    if not holds:
        pytest.fail(
            f"seen in {seen_in}: {claim}. The installed {installed} does not: revise "
            "this test and what the notes say of it.",
            pytrace=False,
        )
