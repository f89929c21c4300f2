"""Show the fields of a `NamedTuple` as its signature, as a dataclass has it."""

from __future__ import annotations

from typing import Any

import griffe


class NamedTupleFields(griffe.Extension):
    """Give each named tuple the `__init__` that its fields stand for."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Called by griffe for each class it has read."""
        named = any(str(base).endswith("NamedTuple") for base in cls.bases)
        if not named or "__init__" in cls.members:
            return
        kind = griffe.ParameterKind.positional_or_keyword
        fields = [
            griffe.Parameter(
                attribute.name,
                annotation=attribute.annotation,
                kind=kind,
                default=attribute.value,
            )
            for attribute in cls.attributes.values()
            if attribute.annotation is not None
        ]
        cls.set_member(
            "__init__",
            griffe.Function("__init__", parameters=griffe.Parameters(*fields)),
        )
