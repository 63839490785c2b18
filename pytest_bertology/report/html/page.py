"""The page: a run's content and pictures in, one HTML document out."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bertology.report.html.evidence import sections
from pytest_bertology.report.pictures import Picture
from pytest_bertology.report.rows import OUTCOMES, Row, rows_of, run_verdict
from pytest_bertology.report.svg import parts, tidied
from pytest_bertology.report.text import counted, number, visible
from pytest_bertology.report.wording import Plain, observed_in

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent
_MOST_PICTURES = 2_500_000
"""Characters of all pictures: pages are to stay below 5 MB."""
_LARGEST_PICTURE = 400_000
_SHORT = 12
_OPENED = 3
"""Up to so many rows that did not hold are shown open."""
MARKS = {
    "failed": "✕", "error": "!", "inconclusive": "?", "xpassed": "!", "refuted": "↺", "xfailed": "↺", "skipped": "–",
    "passed": "✓",
}  # fmt: skip
_MEANING = {
    "refuted": "did not hold, in a test that expected this and passed",
    "xfailed": "failed, as the test expected",
    "xpassed": "held, though the test expected it to fail",
    "inconclusive": "the data can neither confirm nor refute it",
}


def page(content: Plain, pictures: Mapping[str, Sequence[Plain]] | None = None, *, note: str = "") -> str:
    """The report of a run as one HTML document.

    `content` is what the JSON report holds, `pictures` are those of each test, as plain values; `note` is said where
    figures are missing. All text of models, data sets and tests is escaped.
    """
    rows = rows_of(content["tests"])
    shown, of_tests, left_out = _fitting(rows, pictures or {})
    opened = [row for row in rows if row.severity < OUTCOMES.index("xpassed")]
    views = [_view(row, [shown[name] for name in of_tests[row.test]]) for row in rows]
    if len(opened) <= _OPENED:
        for view in views[: len(opened)]:  # the worst stand first
            view["opened"] = True
    script = (_HERE / "script.js").read_text(encoding="utf-8")
    html = _environment().get_template("page.html").render(
        content=content,
        verdict=run_verdict(rows, content["tests"], content["exit_status"]),
        rows=views,
        models=sorted({row.verdict["model"] for row in rows if row.verdict and row.verdict["model"]}),
        checks=sorted({row.check for row in rows if row.check}),
        pictures=shown,
        frames=list(dict.fromkeys(each.frame for view in views for part in view["sections"] for each in part.maps)),
        left_out=left_out,
        note=note,
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        marks=MARKS,
        meaning=_MEANING,
    )  # fmt: skip
    head, body = html.split("<body>", 1)
    body, end = body.rsplit("<script>", 1)
    body = re.sub(r"> *\n\s*<", "><", body)  # half of a page's nodes would be blanks between tags
    return f"{head}<body>{body}<script>{end}"


def _view(row: Row, pictures: Sequence[Plain]) -> dict[str, Any]:
    """What the template shows of a row; a picture is `first` where it had not been shown."""
    verdict = row.verdict or {}
    drawn = [(picture, picture["new"]) for picture in pictures if row.first]
    for picture, _ in drawn:
        picture["new"] = False
    score, baseline = verdict.get("score"), verdict.get("baseline")
    return {
        "row": row,
        "observed": observed_in(verdict) if row.verdict else "",
        "observed_exact": verdict.get("observed"),
        "required": verdict.get("required", ""),
        "score": score,
        "baseline": baseline,
        "model": verdict.get("model") or "",
        "task": verdict.get("task") or "",
        "meter": _meter(verdict.get("observed"), str(verdict.get("required", ""))),
        "sections": sections(row),
        "pictures": drawn,
        "opened": False,
    }


def _meter(observed: float | None, required: str) -> tuple[float, float] | None:
    """How far a bar goes and where the limit stands, in percent; None where the limit is no number above zero."""
    limit = re.fullmatch(r"(?:<=?|>=?)\s*([\d.]+(?:e-?\d+)?)", required)
    if observed is None or not limit or float(limit[1]) <= 0:
        return None
    most = 1.25 * max(observed, float(limit[1]))
    return round(100 * max(observed, 0.0) / most, 1), round(100 * float(limit[1]) / most, 1)


def _fitting(
    rows: Sequence[Row], pictures: Mapping[str, Sequence[Plain]]
) -> tuple[dict[str, Plain], dict[str, list[str]], int]:
    """The pictures by digest, those of the worst rows first, as far as there is room; which each test has; the rest."""
    shown: dict[str, Plain] = {}
    of_tests: dict[str, list[str]] = {row.test: [] for row in rows}
    left_out, room = set(), _MOST_PICTURES
    for row in rows:
        for found in pictures.get(row.test, ()) if row.first else ():
            digest = Picture(**found).digest
            if digest not in shown:
                prepared = _prepared(found, digest)
                size = len(prepared["inside"]) + len(found["alt"]) if prepared else 0
                if prepared is None or size > min(room, _LARGEST_PICTURE):
                    left_out.add(digest)
                    continue
                room -= size
                shown[digest] = prepared
            of_tests[row.test].append(digest)
    return shown, of_tests, len(left_out)


def _prepared(found: Plain, digest: str) -> Plain | None:
    """A picture as the page holds it, None for what is no SVG."""
    try:
        box, inside = parts(tidied(found["svg"]))
    except ValueError:
        return None
    return {**found, "id": f"p-{digest}", "box": box, "inside": inside, "wide": _wide(box), "new": True}


def _wide(box: str) -> float:
    """The width of a picture in CSS pixels, drawn in points."""
    return round(float(box.split()[2]) * 4 / 3)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.filters["counted"] = counted
    environment.filters["number"] = number
    environment.filters["breakable"] = _breakable
    environment.filters["score"] = _score
    return environment


def _finalized(value: Any) -> Any:
    """What is plain text is shown with its control characters escaped; markup of our own is left alone."""
    return visible(value) if type(value) is str else value


def _breakable(text: str) -> Any:
    """A long name, which may be broken behind its parts and not within a word."""
    from markupsafe import Markup, escape

    if len(text) < _SHORT:
        return text
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/_.\-\[])", visible(text)))


def _score(value: float) -> str:
    """With four decimals, as the terminal has it; large and small ones with four digits."""
    return f"{value:.4f}" if 0.001 <= abs(value) < 10_000 or value == 0 else f"{value:.4g}"
