"""Each trap has a mutant of the module that falls into it, and a test that kills it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The pattern, the test that must fail, the text as it is, and as the trap has it.
MUTANTS = """
pagination/paginator test_empty_page_is_no_end
        if self._enough(answer.count, answer.number):
---
        if self._enough(answer.count, answer.number) or not answer.items:
===
pagination/paginator test_loops[cursor-ABA-3]
        if before := seen.get(plan.mark):
---
        if (before := seen.get(plan.mark)) == answer.number:
===
pagination/paginator test_other_origins
    return f"{url.scheme}://{host}" + ("" if url.port is None else f":{url.port}")
---
    return f"//{host}"
===
pagination/paginator test_origins_of_addresses
    host = f"[{url.host}]" if ":" in url.host else url.host
---
    host = url.host
===
pagination/paginator test_no_end_in_a_window
            if self.max_pages is None and number > _ENDLESS:
---
            if self.max_pages is None and number > 100 * _ENDLESS:
===
pagination/paginator test_async_loop_taken_up_at_once
            if self._walker is mine:
                await self.aclose()

    async def __anext__
---
            await self.aclose()

    async def __anext__
===
pagination/paginator test_other_origins
        if url.userinfo and url.userinfo != self._first.url.userinfo:
---
        if url.userinfo == b"never":
===
pagination/paginator test_redirect_to_another_origin
            self._admit(request.url)
---
            pass
===
pagination/paginator test_offset_moves_by_what_came
        by = n * len(answer.items)
---
        by = n * (self.limit or 7)
===
pagination/paginator test_resume
        saved = json.dumps([number, index, url, address.params, address.body])
---
        saved = json.dumps([number, 0, url, address.params, address.body])
===
pagination/paginator test_checkpoint_leaves_out_what_the_first_request_has
            if value and value in values:
---
            if False:
===
pagination/paginator test_resume_of_another_walk
        if seal != self._seal(saved):
---
        if not seal:
===
pagination/paginator test_max_items
        if self._enough(answer.count, answer.number):
---
        if self._enough(-1, answer.number):
===
pagination/paginator test_short_page_in_a_window
                while self._ahead:  # a page came up short: what is behind it moved
---
                while False:
===
pagination/paginator test_prefetch_asks_for_no_more
        for _ in range(self.prefetch - len(self._ahead)):  # a chain, one after another
---
        for _ in range(self.prefetch + 1 - len(self._ahead)):
===
pagination/paginator test_malformed_link_is_no_end
        if any(_scan(value)[1] for value in values):
---
        if not values and self.rel is None:
===
pagination/paginator test_has_more_without_token
        if value in (_ABSENT, None) and more:
---
        if value in (_ABSENT, None) and more is _ABSENT:
===
pagination/paginator test_has_more_decides
        if more is False or
---
        if
===
pagination/paginator test_link_edges
        once = dict(reversed(params))
---
        once = dict(params)
===
pagination/paginator test_break_cancels_what_is_on_its_way
            job.cancel()
        if jobs:
---
            pass
        if False:
===
pagination/paginator test_total_not_reached
    if at >= end if end is not None else not answer.items:
---
    if not answer.items or (end is not None and at >= end):
===
pagination/page_token test_rotation
        if not any([hmac.compare_digest(mac, good) for good in macs]):
---
        if len(mac) != 16:
===
pagination/page_token test_scope
        if not hmac.compare_digest(digest, _digest(scope)):
---
        if not digest:
===
pagination/page_token test_expiry
        if expires is not None and self._clock() >= expires:
---
        if expires is not None and self._clock() >= expires + 60:
===
pagination/page_token test_one_spelling
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != token:
---
    if not raw:
===
pagination/page_token test_signatures_of_another_purpose
        self._keys = [_hmac(secret, b"page-token:1") for secret in secrets]
---
        self._keys = secrets
===
pagination/page_token test_orders_refused
    if missing or not unique:
---
    if not unique:
===
pagination/page_token test_walk_over_every_row
        return Keyset(f"({sql} OR {column} IS NULL)" if last else sql, [self.value])

    def not_before
---
        return Keyset(sql, [self.value])

    def not_before
===
pagination/page_token test_positions_refused
        if value is None and order.nulls is None:
---
        if False:
"""


def mutants():
    """Return the mutants as pytest parameters."""
    for block in MUTANTS.strip().split("\n===\n"):
        head, _, rest = block.partition("\n")
        name, test = head.split()
        old, new = rest.split("\n---\n")
        yield pytest.param(name, test, old, new, id=f"{test}-{name.split('/')[1]}")


@pytest.mark.parametrize(("name", "test", "old", "new"), list(mutants()))
def test_mutant_dies(name, test, old, new, tmp_path):
    """The named test fails on the module with the trap in it."""
    folder, stem = name.split("/")
    for part in (f"patterns/{folder}", f"tests/{folder}", "tests/vectors"):
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / "patterns/__init__.py").touch()
    module = tmp_path / "patterns" / folder / f"{stem}.py"
    text = module.read_text("utf-8")
    assert text.count(old) == 1
    module.write_text(text.replace(old, new), "utf-8")
    node = f"tests/{folder}/test_{stem}.py::{test}"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir=."]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", node, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1, run.stdout + run.stderr
