"""A pattern over another httpx package, as `patterns add --http` would write it."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any


def over(original: Any, package: str) -> Any:
    """Return a pattern's module over an httpx package, made from its text."""
    name = f"{original.__name__.replace('.', '_')}_over_{package}"
    if package == "httpx":
        return original
    if name not in sys.modules:
        text = Path(original.__file__).read_text(encoding="utf-8")
        line = "\nimport httpx\n"
        assert text.count(line) == 1
        module = types.ModuleType(name)
        sys.modules[name] = module  # dataclasses look their module up
        text = text.replace(line, f"\nimport {package} as httpx\n")
        exec(compile(text, f"{original.__file__} over {package}", "exec"), vars(module))
    return sys.modules[name]
