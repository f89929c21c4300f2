"""The paginator against servers that lead it astray, over real connections.

What other clients do there is stated in `test_behaviour_of_peers.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hostile import Astray, Circle

SECRETS = {"authorization": "Bearer s3cret", "x-api-key": "k3y", "cookie": "sid=s1d"}


@pytest.mark.parametrize("style", ["LinkHeader", "NextUrl"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_next_page_elsewhere_gets_nothing(
    walker: Any, serve: Callable[[Any], str], style: str, prefetch: int
) -> None:
    """A next address on another port raises, and that port sees no connection."""
    thief = Astray(([], None))
    theirs = serve(thief)
    ours = Astray(({"items": [1], "next": f"{theirs}/2"}, f"<{theirs}/2>; rel=next"))
    kit = walker.paginator
    with pytest.raises(kit.CrossOriginNext) as caught:
        walker.walk(
            f"{serve(ours)}/1",
            getattr(kit, style)(),
            items="items",
            prefetch=prefetch,
            client={"headers": SECRETS},
        )
    assert thief.requests == []
    assert len(ours.requests) == 1
    assert SECRETS.items() <= ours.requests[0].items()
    assert not [word for word in ("s3cret", "k3y", "s1d") if word in str(caught.value)]


def test_an_origin_that_is_named_is_followed(
    walker: Any, serve: Callable[[Any], str]
) -> None:
    """An origin in `origins` is followed, with all that the first one was sent."""
    second = Astray(({"items": [2]}, None))
    theirs = serve(second)
    first = Astray(({"items": [1], "next": f"{theirs}/2"}, None))
    walked = walker.walk(
        f"{serve(first)}/1",
        walker.paginator.NextUrl(),
        items="items",
        origins=[theirs],
        request={"headers": {"authorization": "Bearer s3cret"}},
    )
    assert walked.items == [1, 2]
    assert second.requests[0]["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize(
    ("tokens", "requests"), [("A", 2), ("AB", 3), ("ABCDE", 6), ("ABCDC", 5)]
)
@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_circle_of_tokens_ends_at_its_first_return(
    walker: Any,
    serve: Callable[[Any], str],
    tokens: str,
    requests: int,
    prefetch: int,
) -> None:
    """A walk that would go round stops before it sends any request a second time."""
    circle, kit = Circle(tokens), walker.paginator
    with pytest.raises(kit.PaginationLoop):
        walker.walk(
            f"{serve(circle)}/",
            kit.Cursor("next", param="cursor"),
            items="items",
            prefetch=prefetch,
        )
    assert len(circle.requests) == requests
