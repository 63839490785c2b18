"""Files of baselines: JSON that is read with care, written whole, and changes only where a baseline changed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_bertology.errors import InvalidBaselines
from pytest_bertology.files import written_whole

SCHEMA = "pytest-bertology baselines 1"
PARTS = ("match", "warn", "recorded", "content")
"""Of an entry: provenance that must match, that is warned of, that is only told; and what was measured."""
_PER_ROW = 8
"""Numbers of a long array in one line: a number that changes, changes one line."""

Entry = dict[str, Any]


def read_baselines(path: Path) -> dict[str, Entry]:
    """The entries of a file, by their keys; none where there is no file.

    Raises InvalidBaselines for one that cannot be read, was written by another version, or edited by hand.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidBaselines(str(path), f"it cannot be read ({error})") from error
    if any(line.startswith(("<<<<<<< ", ">>>>>>> ")) for line in text.splitlines()):
        raise InvalidBaselines(str(path), "it holds the marks of a merge that was not finished")
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidBaselines(str(path), f"it is not JSON ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise InvalidBaselines(str(path), f"its schema is {found!r}, and this version reads {SCHEMA!r}")
    entries = content.get("entries")
    if not isinstance(entries, dict):
        raise InvalidBaselines(str(path), "it has no entries")
    for name, entry in entries.items():
        problem = _problem(entry)
        if problem:
            raise InvalidBaselines(str(path), f"its entry {name!r} {problem}")
    return {name: {part: entry[part] for part in PARTS} for name, entry in entries.items()}


def write_baselines(path: Path, entries: Mapping[str, Entry]) -> bool:
    """Write a file whole, its keys sorted, or remove it where there is no entry; return whether anything changed."""
    if not entries:
        existed = path.exists()
        path.unlink(missing_ok=True)
        return existed
    sealed = {name: {**_rounded(dict(entries[name])), "digest": digest_of(entries[name])} for name in entries}
    text = layout({"schema": SCHEMA, "entries": sealed}) + "\n"
    if path.exists() and path.read_bytes() == text.encode("utf-8"):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
    return True


def as_stored(entry: Mapping[str, Any]) -> Entry:
    """The entry as it would be read back: what is compared has the digits of what is written."""
    found: Entry = json.loads(layout(_rounded(dict(entry))))
    return found


def digest_of(entry: Mapping[str, Any]) -> str:
    """Tells whether an entry is as it was written."""
    content = json.dumps(_rounded({part: entry[part] for part in PARTS}), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _problem(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "is no object"
    missing = [part for part in (*PARTS, "digest") if part not in entry]
    if missing:
        return f"has no {missing[0]!r}"
    if not all(isinstance(entry[part], dict) for part in PARTS):
        return "has parts that are no objects"
    if digest_of(entry) != entry["digest"]:
        return "was edited by hand: its digest is another"
    return None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def as_kept(number: float) -> float:
    """A number with the digits that a file has of it."""
    return float(f"{number:.9g}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _rounded(value: Any) -> Any:
    """Floats to nine significant digits: what differs beyond that is of the machine."""
    if isinstance(value, dict):
        return {str(name): _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be kept in a baseline")
        short = as_kept(value)
        return int(short) if short == int(short) and abs(short) < 1e15 else short
    return value


def layout(value: Any, indent: int = 0) -> str:
    """JSON with sorted keys; lists of numbers or of short strings in rows of a fixed length."""
    inner = " " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(name)}: {layout(value[name], indent + 1)}" for name in sorted(value)]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    if isinstance(value, list) and value:
        if all(isinstance(item, int | float | None) for item in value):
            rows = [inner + ", ".join(map(json.dumps, row)) for row in _rows(value)]
            return (
                "[" + rows[0].strip() + "]" if len(rows) == 1 else "[\n" + ",\n".join(rows) + "\n" + " " * indent + "]"
            )
        return "[\n" + ",\n".join(f"{inner}{layout(item, indent + 1)}" for item in value) + "\n" + " " * indent + "]"
    return json.dumps(value, allow_nan=False)


def _rows(values: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _PER_ROW):
        yield values[start : start + _PER_ROW]
