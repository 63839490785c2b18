"""Files that are written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from uuid import uuid4


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; renamed at the end, removed where writing fails.

    Raises FileNotFoundError, naming folder and file, where there is no such folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, f"there is no folder {str(path.parent)!r} to write to", str(path))
    temporary = path.with_name(f".writing-{uuid4().hex}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
