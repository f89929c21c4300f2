# SPDX-FileCopyrightText: 2026 The API integration patterns authors
# SPDX-License-Identifier: MIT
"""The shape of what is recorded: a note's frontmatter, the standards, the claims."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _iso(value: object) -> object:
    if not (isinstance(value, str) and re.fullmatch(r"2[01]\d\d-\d\d-\d\d", value)):
        raise ValueError("write the day as YYYY-MM-DD")
    return value


Day = Annotated[date, BeforeValidator(_iso)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=80)]
Text = Annotated[str, Field(min_length=1, max_length=400)]
SpecId = Annotated[str, Field(pattern=r"^[a-z0-9]+([.-][a-z0-9]+)*$", max_length=80)]
Nothing = Annotated[list[str], Field(max_length=0)]
State = Literal["seedling", "growing", "permanent"]
Frequency = Literal["weekly", "monthly", "quarterly", "yearly"]
DAYS = {"weekly": 7, "monthly": 30, "quarterly": 91, "yearly": 365}


class Record(BaseModel):
    """Refuses unknown keys; spells them with a hyphen."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class Note(Record):
    """What every page of the vault records."""

    type: str
    state: State
    created: Day
    last_reviewed: Day
    review_frequency: Frequency
    tags: Annotated[list[Word], Field(min_length=1)]
    domain: Word
    aliases: list[Text] = []
    modules: Nothing = []
    notebooks: list[Text] = []
    tests: Nothing = []
    specs: list[SpecId] = []

    @property
    def next_review(self) -> date:
        """The day the next review is due."""
        return self.last_reviewed + timedelta(days=DAYS[self.review_frequency])


class MocNote(Note):
    """A map of content: the index itself, or a related map."""

    type: Literal["moc-node"]
    moc_type: Literal["index", "map"]
    note_count: Annotated[int, Field(strict=True, ge=0)]


class PatternNote(Note):
    """A pattern: a folder of modules, a notebook and tests under one note."""

    type: Literal["pattern"]
    modules: list[Text] = []
    tests: list[Text] = []
    specs: Annotated[list[SpecId], Field(min_length=1)]

    @model_validator(mode="after")
    def _grown(self) -> PatternNote:
        if self.state != "seedling":
            for name in ("modules", "notebooks", "tests"):
                if not getattr(self, name):
                    raise ValueError(f"a {self.state} pattern lists its {name}")
        return self


class PageNote(Note):
    """Every other page."""

    type: Literal["question", "direction", "guide", "record"]


def note_model(kind: object) -> type[Note]:
    """The model of a note by its `type`; what is unknown is refused by the last."""
    models: dict[object, type[Note]] = {"moc-node": MocNote, "pattern": PatternNote}
    return models.get(kind if isinstance(kind, str) else "", PageNote)


class Spec(Record):
    """A standard that notes cite; `checked` is empty until it is compared."""

    id: SpecId
    title: Text
    date: Annotated[str, Field(pattern=r"^\d{4}(-\d{2}){0,2}$")] | None
    status: Literal[
        "internet-standard",
        "proposed-standard",
        "best-current-practice",
        "informational",
        "draft",
        "expired-draft",
        "recommendation",
        "specification",
        "guideline",
    ]
    checked: Day | None = None
    url: Annotated[str, Field(pattern=r"^https://\S+$", max_length=200)]
    replaces: list[SpecId] = []
    note: Text | None = None

    @property
    def number(self) -> str:
        """How a reader writes it: `RFC 8288` of `rfc8288`."""
        return f"RFC {self.id[3:]}" if self.id.startswith("rfc") else self.id

    @property
    def link(self) -> str:
        """A Markdown link to the document."""
        return f"[{self.number}]({self.url})"

    @property
    def standing(self) -> str:
        """The status as a reader sees it."""
        return self.status.replace("-", " ")


class Claim(Record):
    """A bullet of the synthesis. Its verdict stays open until a notebook shows it."""

    id: Word
    text: Text
    verdict: Literal["holds", "holds-if", "refuted"] | None
    condition: Text | None
    evidence: Text | None
    figure: Text | None

    @model_validator(mode="after")
    def _complete(self) -> Claim:
        if self.verdict is not None and not (self.evidence and self.figure):
            raise ValueError("a verdict needs its evidence and its figure")
        if self.verdict in ("holds-if", "refuted") and not self.condition:
            raise ValueError(f"the verdict {self.verdict} needs its condition")
        if self.verdict is None and self.evidence:
            raise ValueError("evidence without a verdict: say what it shows")
        return self

    @property
    def word(self) -> str:
        """The verdict as a reader sees it."""
        return (self.verdict or "open").replace("-", " ")
