"""The page that says why a value does not hold against its baseline."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_bertology.baselines.comparison import Comparison
from pytest_bertology.checks.explain import table


def explained(found: Comparison, about: Mapping[str, str]) -> str:
    """What was compared with what, what came of it, and what differs of what they were made of."""
    rows = {**about, **found.rows}
    if found.differs:
        rows["beside"] = "; ".join(f"{name}: {change}" for name, change in found.differs.items())
    lines = [found.title, "", *table(rows)]
    return "\n".join([*lines, *(["", *found.lines] if found.lines else [])])
