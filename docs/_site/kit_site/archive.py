"""Pack files for the browser's Python: the same bytes for the same files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path


def packed(files: Mapping[str, Path]) -> bytes:
    """Return a zip of the files under their names, without dates."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return out.getvalue()


def below(folder: Path, root: Path, *patterns: str) -> dict[str, Path]:
    """Return the files of a folder by their path below `root`."""
    found = (path for pattern in patterns for path in folder.rglob(pattern))
    return {path.relative_to(root).as_posix(): path for path in found}
