"""Columns in: from files, folders, the hub and live data sets, all as plain lists."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pytest_bertology.errors import InvalidArgument, MalformedData, TaskNotFound
from pytest_bertology.names import EMBEDDED

Columns: TypeAlias = dict[str, list[Any]]
Read: TypeAlias = tuple[Columns, list[int]]
"""Columns, and the line of each example where that is known."""


@dataclass(frozen=True)
class Table:
    """Columns of equal length, and the names of class labels where the source knows them."""

    name: str
    columns: dict[str, list[Any]]
    class_names: dict[str, tuple[str, ...]]
    lines: tuple[int, ...] = ()
    """Where each example stands in its file, from 1, where that is known."""

    def where(self, row: int) -> str:
        """What to call an example in a message."""
        return f"line {self.lines[row]}" if self.lines else f"example {row}"

    @property
    def rows(self) -> int:
        """How many examples."""
        return len(next(iter(self.columns.values()), []))


def read(source: Any, split: str | None) -> Table:
    """Read a table from a file, a folder, a hub name, a mapping or frame of columns or a live `datasets.Dataset`.

    Raises TaskNotFound or MalformedData; InvalidArgument for what is none of these.
    """
    one_table = _is_dataset(source) or (isinstance(source, str | os.PathLike) and Path(source).is_file())
    if split is not None and one_table:
        raise InvalidArgument("split", split, "None: a file or single data set has no splits")
    if isinstance(source, Mapping):
        if source and all(_is_dataset(part) for part in source.values()):
            return _from_splits(source, split, "the data set")
        return _from_columns(source)
    if _is_dataset(source):
        return _from_dataset(source, str((getattr(source, "info", None) and source.info.dataset_name) or "data set"))
    if _is_frame(source):
        return _from_frame(source)
    if not isinstance(source, str | os.PathLike):
        expected = "a file, a folder, a hub name, columns such as {'text': [...], 'label': [...]}, or a data set"
        raise InvalidArgument("source", type(source).__name__, expected)
    name = os.fspath(source)
    if not name.strip():
        raise TaskNotFound(name, "the name is empty")
    path = Path(name)
    if path.is_file():
        return _from_file(path)
    if path.is_dir():
        return _from_folder(path, split)
    if path.suffix.lower() in _READERS or path.is_absolute() or name.startswith("."):
        raise TaskNotFound(name, f"there is no such file (looked from {Path.cwd()})")
    if name == EMBEDDED:
        raise TaskNotFound(name, "in Python it is pytest_bertology.load_embedded_task()")
    return _from_hub(name, split)


def _from_columns(source: Mapping[str, Any]) -> Table:
    name = "the given columns"
    for column, values in source.items():
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise MalformedData(name, f"column {column!r} is not a list: {values!r}")
    columns = {str(column): _values(name, str(column), values) for column, values in source.items()}
    counts = {column: len(values) for column, values in columns.items()}
    if len(set(counts.values())) > 1:
        raise MalformedData(name, f"the columns are of different length: {counts}")
    return Table(name, columns, {})


def _from_frame(frame: Any) -> Table:
    """The columns of a pandas or polars DataFrame."""
    names = [str(column) for column in frame.columns]
    if len(set(names)) != len(names):
        raise MalformedData("the given data frame", f"two columns have one name: {', '.join(names)}")
    return _from_columns({name: frame[column] for name, column in zip(names, frame.columns, strict=True)})


def _values(name: str, column: str, values: Iterable[Any]) -> list[Any]:
    """A column as a list; a tensor's numbers compare and hash by identity, and are no labels."""
    listed = list(values)
    if any(hasattr(value, "detach") for value in (values, *listed)):
        raise MalformedData(name, f"column {column!r} holds tensors: give plain values, such as tensor.tolist()")
    return listed


def _from_file(path: Path) -> Table:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TaskNotFound(str(path), f"files are read by their ending, one of {', '.join(_READERS)}")
    columns, lines = reader(path)
    return Table(path.name, columns, {}, tuple(lines))


def _delimited(delimiter: str, quoting: Literal[0, 3]) -> Callable[[Path], Read]:
    def read_delimited(path: Path) -> Read:
        with _opened(path) as file:
            try:
                reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
                numbered = [(reader.line_num, row) for row in reader]
            except (csv.Error, UnicodeDecodeError) as error:
                raise MalformedData(str(path), str(error)) from None
        lines = [line for line, row in numbered if row]
        rows = [row for _, row in numbered if row]
        if not rows:
            return {}, []
        header = [name.strip().lstrip("\ufeff") for name in rows[0]]
        if len(set(header)) != len(header):
            raise MalformedData(str(path), f"two columns have one name: {', '.join(header)}")
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(header):
                raise MalformedData(
                    str(path), f"row {number} has {len(row)} fields and the header {len(header)}: {', '.join(header)}"
                )
        return {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}, lines[1:]

    return read_delimited


def _jsonl(path: Path) -> Read:
    columns: Columns = {}
    with _opened(path) as file:
        try:
            lines = [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
        except UnicodeDecodeError as error:
            raise MalformedData(str(path), str(error)) from None
    for number, line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise MalformedData(str(path), f"line {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise MalformedData(str(path), f"line {number} is not an object with columns")
        if columns and set(row) != set(columns):
            raise MalformedData(str(path), f"line {number} has {sorted(row)}, and the first has {sorted(columns)}")
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns, [number for number, _ in lines]


def _parquet(path: Path) -> Read:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise MalformedData(str(path), f"not a parquet file ({error})") from None
    return {name: table.column(name).to_pylist() for name in table.column_names}, []


_READERS: dict[str, Callable[[Path], Read]] = {
    ".csv": _delimited(",", csv.QUOTE_MINIMAL),
    # Tab-separated corpora (GLUE among them) carry bare quotation marks that quote nothing.
    ".tsv": _delimited("\t", csv.QUOTE_NONE),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _opened(path: Path) -> Any:
    return path.open(encoding="utf-8-sig", newline="")


def _from_folder(path: Path, split: str | None) -> Table:
    """A folder that `datasets` saved, or one of files that it can read."""
    import datasets

    try:
        saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
        data = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise TaskNotFound(str(path), _first_line(error)) from error
    if _is_dataset(data):
        return _from_dataset(data, path.name)
    return _from_splits(data, split, path.name)


def _from_hub(name: str, split: str | None) -> Table:
    """`owner/name`, `name/config` or `owner/name/config`; offline, what the local cache holds."""
    import datasets

    parts = name.split("/")
    if len(parts) > 3 or not all(parts):
        raise TaskNotFound(name, "a hub name is owner/name, name/config or owner/name/config")
    readings: list[tuple[str, str | None]] = [("/".join(parts[:2]), parts[2])] if len(parts) == 3 else [(name, None)]
    if len(parts) == 2:
        within = (parts[0], parts[1])
        readings = [within] if parts[0] in _COLLECTIONS else [*readings, within]
    reasons = []
    for repository, config in readings:
        try:
            return _from_splits(datasets.load_dataset(repository, config), split, name)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reasons.append(f"{repository}{f' ({config})' if config else ''}: {_first_line(error)}")
    raise TaskNotFound(name, f"there is no such file or folder, and from the hub: {'; '.join(reasons)}")


_COLLECTIONS = frozenset({"glue", "super_glue", "xtreme", "xglue", "tweet_eval", "blimp", "wikitext"})


def _from_splits(splits: Mapping[str, Any], split: str | None, name: str) -> Table:
    """One split: the one asked for, else the validation split, else the only one."""
    if split is None:
        likely = [s for s in splits if s in ("validation", "dev", "val")]
        if len(splits) != 1 and len(likely) != 1:
            raise TaskNotFound(name, f"it has the splits {', '.join(splits)}: name one with split=")
        split = likely[0] if likely else next(iter(splits))
    if split not in splits:
        raise TaskNotFound(name, f"it has no split {split!r}, but {', '.join(splits)}")
    return _from_dataset(splits[split], f"{name}[{split}]")


def _from_dataset(data: Any, name: str) -> Table:
    names: dict[str, tuple[str, ...]] = {}
    for column, feature in (data.features or {}).items():
        inner = getattr(feature, "feature", feature)
        if type(inner).__name__ == "ClassLabel" and inner.names:
            names[column] = tuple(inner.names)
    return Table(name, {column: _values(name, column, data[column]) for column in data.column_names}, names)


def _is_dataset(value: Any) -> bool:
    return hasattr(value, "column_names") and hasattr(value, "features") and not isinstance(value, Mapping)


def _is_frame(value: Any) -> bool:
    return hasattr(value, "columns") and hasattr(value, "dtypes") and hasattr(value, "__getitem__")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n") or [""])[0] or type(error).__name__
