"""What stands behind one row: its explanation, its numbers, the examples that changed, maps of heads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_bertology.report.html.heat import HeatMap, heat_maps, most_changed
from pytest_bertology.report.rows import Row
from pytest_bertology.report.text import counted, number
from pytest_bertology.report.wording import observed_in
from pytest_bertology.rounding import rounded_up

_EXAMPLES, _EXAMPLES_OF_PASSED = 10, 3
_LISTED = 24
_LONGEST = 600
_COLUMNS = ("example", "text", "label", "before", "after", "margin")


@dataclass(frozen=True)
class Section:
    """A part of the evidence; what is empty is not shown."""

    title: str
    text: str = ""
    """Shown as it is, its lines kept."""
    facts: tuple[tuple[str, str], ...] = ()
    """Names and values."""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    maps: tuple[HeatMap, ...] = field(default=())
    note: str = ""


def sections(row: Row) -> list[Section]:
    """All that is known of a row, the explanation first."""
    found = []
    if row.message:
        found.append(Section("Why" if row.verdict is not None else "Error", text=row.message))
    verdict = row.verdict
    if verdict is not None:
        evidence = verdict.get("evidence") or {}
        found += _changed(evidence.get("changed"), _EXAMPLES_OF_PASSED if verdict["passed"] else _EXAMPLES)
        found += _heads(evidence.get("heads"))
        found.append(Section("Numbers", facts=tuple(_numbers(row))))
        for name, value in (verdict.get("details") or {}).items():
            if _is_table(value):
                found.append(Section(_named(name), facts=tuple(_facts(value))))
        for name, value in evidence.items():
            if name not in ("changed", "heads"):
                found.append(_any(name, value))
    if row.first and row.of_test.get("error") and row.message not in row.of_test["error"]:
        found.append(Section("Error of the test", text=str(row.of_test["error"])))
    if row.first and row.of_test.get("warnings"):
        found.append(Section("Warnings", text="\n\n".join(map(str, row.of_test["warnings"]))))
    return [section for section in found if section.text or section.facts or section.rows or section.maps]


def _numbers(row: Row) -> Iterable[tuple[str, str]]:
    verdict = row.verdict or {}
    bound = row.judged.startswith("bound on the ")
    yield row.judged or "observed", observed_in(verdict) if bound else _exact(verdict["observed"])
    yield "required", str(verdict["required"])
    for name in ("p_value", "baseline", "score", "examples"):  # the row shows the others
        if verdict.get(name) is not None:
            yield _key(name), _exact(verdict[name])
    if verdict.get("heads"):
        yield counted(len(verdict["heads"]), "head"), _listed(verdict["heads"], " ")
    for name, value in (verdict.get("details") or {}).items():
        if name == "bound" and isinstance(value, float):
            yield "bound", rounded_up(value)
        elif not _is_table(value):
            yield _key(name), _value(value)
    if verdict.get("times", 1) > 1:
        yield "given", f"{verdict['times']} times; this is the last that did not hold, or the last"
    if "seconds" in row.of_test:
        yield "seconds of the test", _exact(row.of_test["seconds"])


def _changed(changed: Any, most: int) -> list[Section]:
    """How many predictions changed, and the worst of them."""
    if not isinstance(changed, dict):
        return []
    counts = [f"{changed[name]} became {what}" for name, what in (("lost", "wrong"), ("gained", "right"))
              if name in changed]  # fmt: skip
    others = [f"{_key(name)}: {_value(value)}" for name, value in changed.items()
              if name not in ("lost", "gained", "worst")]  # fmt: skip
    note = "; ".join(counts + others)
    worst = changed.get("worst")
    rows = [each for each in worst if isinstance(each, dict)] if isinstance(worst, list) else []
    if not rows:
        return [Section("Changed predictions", text=note)] if note else []
    return [_table("Changed predictions", rows, most, note)]


def _heads(evidence: Any) -> list[Section]:
    """Maps of heads, and those that changed most."""
    if not isinstance(evidence, dict):
        return []
    maps = tuple(heat_maps(evidence))
    rows = tuple((head, *(f"{value:.4g}" for value in values)) for head, *values in most_changed(evidence))
    columns = ("head", "baseline", "candidate", "difference") if rows else ()
    return [Section("Heads", maps=maps, columns=columns, rows=rows, note="the heads that changed most" * bool(rows))]


def _table(title: str, rows: Sequence[dict[str, Any]], most: int = _EXAMPLES, note: str = "") -> Section:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=lambda name: _COLUMNS.index(name) if name in _COLUMNS else len(_COLUMNS))
    shown = tuple(tuple(_cell(row.get(name, "")) for name in columns) for row in rows[:most])
    if len(rows) > most:
        note += f"{'; ' * bool(note)}the first {most} of {len(rows)}"
    return Section(title, columns=tuple(map(_named, columns)), rows=shown, note=note)


def _any(name: str, value: Any) -> Section:
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return _table(_named(name), value)
    return (
        Section(_named(name), facts=tuple(_facts(value))) if _is_table(value) else Section(_named(name), _value(value))
    )


def _is_table(value: Any) -> bool:
    """Whether a value has names of its own: a dictionary, or a list of rows."""
    if isinstance(value, dict):
        return True
    rows = isinstance(value, list | tuple) and value
    return bool(rows) and all(isinstance(each, list | tuple | dict) for each in value)


def _facts(value: Any) -> Iterable[tuple[str, str]]:
    """Names and values of a nested dictionary, or of a list of rows."""
    if isinstance(value, dict):
        for count, (name, part) in enumerate(value.items()):
            if count == 4 * _LISTED:
                yield "…", f"and {len(value) - count} more"
                return
            if isinstance(part, dict):
                for inner, text in _facts(part):
                    yield f"{_key(str(name))}, {inner}", text
            elif _is_table(part):
                yield _key(str(name)), "; ".join(": ".join(map(_value, row)) for row in _pairs(part))
            else:
                yield _key(str(name)), _value(part)
        return
    for name, text in _pairs(value):
        yield str(name), _value(text)


def _pairs(rows: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    for row in rows:
        if isinstance(row, dict):
            yield from row.items()
        else:
            yield (row[0], row[1]) if len(row) == 2 else ("", " ".join(map(_value, row)))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return _listed(value, ", ")
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_value(part)}" for name, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) or value is None:
        return _exact(value)
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else _value(value)


def _listed(values: Sequence[Any], between: str) -> str:
    shown = between.join(map(_value, values[:_LISTED]))
    return shown if len(values) <= _LISTED else f"{shown} … and {len(values) - _LISTED} more"


def _exact(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else number(value) if value is None else str(value)


def _key(name: str) -> str:
    """A field's name as people write it; names of heads and files as they are."""
    return name.replace("p_value", "p-value").replace("_", " ") if re.fullmatch(r"[a-z][a-z0-9_]*", name) else name


def _named(name: str) -> str:
    """The same, as a title."""
    key = _key(name)
    return key[:1].upper() + key[1:] if key != name or name.islower() else name
