"""Workers are killed while messages and duplicates come in: each effect happens once.

`KIT_KILLS` says how many are killed on each engine, 50 if it is not set.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import inbox_workers

KILLS = int(os.environ.get("KIT_KILLS", "50"))
PATIENCE = 60  # seconds until what is left must be processed


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where a database is that has the tables, and no messages."""
    where = str(tmp_path / "inbox.db")
    if request.param == "postgres":
        where = request.getfixturevalue("postgres_schema")
    with contextlib.closing(inbox_workers.connect(where)) as conn:
        inbox_workers.box().create(conn)
        conn.execute("CREATE TABLE effect (id TEXT NOT NULL)")
        for table, column in ("total", "n"), ("thing", "version"):
            conn.execute(f"CREATE TABLE {table} ({column} INTEGER)")
            conn.execute(f"INSERT INTO {table} VALUES (0)")
        conn.commit()
    return where


def deliver(conn: Any, rng: random.Random, sent: list[int]) -> Counter[str]:
    """Deliver a new message, or one of those before, in one transaction or in none."""
    box, receipts = inbox_workers.box(), Counter[str]()
    number = rng.choice(sent) if sent and rng.random() < 0.4 else len(sent) + 1
    version = str(number * 7919 % 100_003).encode()  # in no order
    message = SimpleNamespace(id=f"msg_{number}", timestamp=None, body=version)
    for _ in range(rng.choice([1, 1, 2])):
        receipts[box.receive(conn, "shop", message)] += 1
    if number not in sent and rng.random() < 0.2:
        conn.rollback()
        return Counter()
    conn.commit()
    if number not in sent:
        sent.append(number)
    return receipts


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")
def test_nothing_is_applied_twice_and_nothing_is_lost(target: str) -> None:
    """However often workers are killed, each message has its effects exactly once."""
    rng, sent, receipts = random.Random(7), list[int](), Counter[str]()
    script = Path(inbox_workers.__file__)
    command = [sys.executable, str(script), target, str(KILLS), "11"]
    with contextlib.closing(inbox_workers.connect(target)) as conn:
        for _ in range(500):
            receipts += deliver(conn, rng, sent)
        workers = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while workers.poll() is None:
            receipts += deliver(conn, rng, sent)
            time.sleep(0.002)
        assert workers.stderr is not None
        said = workers.stderr.read()
        assert workers.wait() == 0, said
        workers.stderr.close()

        box, left = inbox_workers.box(), 1
        deadline = time.monotonic() + PATIENCE
        while left and time.monotonic() < deadline:
            if box.process(conn, inbox_workers.handler) is None:
                time.sleep(inbox_workers.LEASE / 10)
            query = "SELECT count(*) FROM webhook_inbox WHERE state <> 'processed'"
            ((left,),) = conn.execute(query).fetchall()
            conn.commit()
        assert left == 0
        effects = Counter(name for (name,) in conn.execute("SELECT id FROM effect"))
        assert effects == {f"msg_{number}": 1 for number in sent}
        assert conn.execute("SELECT n FROM total").fetchall() == [(len(sent),)]
        newest = max(number * 7919 % 100_003 for number in sent)
        assert conn.execute("SELECT version FROM thing").fetchall() == [(newest,)]
        lost = conn.execute("SELECT sum(attempts) - count(*) FROM webhook_inbox")
        ((repeated,),) = lost.fetchall()
    assert receipts["accepted"] == len(sent)
    assert receipts["duplicate"] > 20
    assert repeated > KILLS / 10, "hardly a worker was killed in the midst of its work"
    print(
        f"{KILLS} kills, {len(sent)} messages, {repeated} claims repeated, {receipts}"
    )
