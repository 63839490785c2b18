"""A run in Markdown, for the page of a CI job: the verdict, then what did not hold, the rest folded away.

GitHub's flavour: tables, `<details>`, and no more than a mebibyte.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from pytest_bertology.report.rows import OUTCOMES, Row, rows_of, run_verdict
from pytest_bertology.report.text import counted, number, visible
from pytest_bertology.report.wording import Plain, observed_in

LIMIT = 1024 * 1024
"""Bytes that GitHub shows of a step's summary; of a longer one it shows nothing."""
_SIGNS = {"failed": "❌", "inconclusive": "❔", "passed": "✅", "empty": "⚪"}
_OF_ROWS = {"failed": "❌", "error": "❌", "inconclusive": "❔", "xpassed": "❔"}
# What Markdown, or GitHub, takes for markup. `_` between letters is none, and `:` and `.` are only within links.
_ACTIVE = re.compile(
    r"[|\\`<>&*\[\]~@#!$^{}+]|(?<![^\W_])_|_(?![^\W_])|(?<=[a-zA-Z]):(?=//)|:(?=[\w+-]+:)|(?<=[wW]{3})\.|^[-=]|^\d+(?=[.)])"
)
_HEAD = "| | test | check | observed | required | score | model | task |\n|---|---|---|---|---|---|---|---|\n"
_LONGEST = 6_000
"""Characters of one explanation."""
_KEPT_FREE = 400
"""Bytes for the line that says what is left out."""


def markdown(content: Plain, *, limit: int = LIMIT) -> str:
    """What came of a run, in at most `limit` bytes of UTF-8; where that is too few it says how much is left out."""
    rows = rows_of(content["tests"])
    verdict = run_verdict(rows, content["tests"], content["exit_status"])
    bad = [row for row in rows if row.severity < OUTCOMES.index("refuted")]
    rest = [row for row in rows if row.severity >= OUTCOMES.index("refuted")]
    text = _Limited(limit - _KEPT_FREE)
    text.add(f"## {_SIGNS[verdict.state]} {escaped(verdict.headline[:1].upper() + verdict.headline[1:])}\n\n")
    for line in (*verdict.notes, *content.get("notes", ())):
        text.add(f"- {escaped(line)}\n")
    text.add("\n" + _tested(content))
    if bad:
        text.rows(_HEAD, bad)
        for row in bad:
            text.add(_explanation(row))
    if rest:
        text.add(f"\n<details><summary>{counted(len(rest), 'row')} without a failure</summary>\n\n")
        text.rows(_HEAD, rest)
        text.add("\n</details>\n", always=True)
    return text.whole()


def escaped(text: str, longest: int = 400) -> str:
    """Text on one line that Markdown shows as it is: nothing in it makes a link, a mention, a column or a tag."""
    line = " ".join(visible(text).split())
    line = line if len(line) <= longest else f"{line[:longest]}…"
    return _ACTIVE.sub(lambda found: f"&#{ord(found[0])};", line)


class _Limited:
    """Text that is added as long as there is room."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._parts: list[str] = []
        self._left_out = 0

    def add(self, part: str, *, always: bool = False) -> bool:
        """Add a part, or count it as left out."""
        size = len(part.encode())
        if size > self._room and not always:
            self._left_out += 1
            return False
        self._room -= size
        self._parts.append(part)
        return True

    def rows(self, head: str, rows: Sequence[Row]) -> None:
        """Add a table; rows for which there is no room are counted."""
        if self.add("\n" + head):
            for row in rows:
                self.add(_line(row))
            self.add("\n", always=True)
        else:
            self._left_out += len(rows) - 1

    def whole(self) -> str:
        """All that was added, and how much was not."""
        if self._left_out:
            more = f"{counted(self._left_out, 'part')} (rows and explanations) left out"
            self._parts.append(f"\n**{more}: this page may hold no more. The HTML and JSON reports hold all.**\n")
        return "".join(self._parts)


def _tested(content: Plain) -> str:
    """Models and tasks on a line each."""
    lines = []
    for kind, name in (("models", "model"), ("tasks", "task")):
        for each in content["provenance"][kind]:
            said = ", ".join(
                f"{key.replace('_', ' ')} {value}" for key, value in each.items() if key != "name" and value
            )
            lines.append(f"- {name} **{escaped(str(each['name']))}**: {escaped(said)}\n")
    return "".join(lines)


def _line(row: Row) -> str:
    verdict = row.verdict
    sign = _OF_ROWS.get(row.outcome, "✅" if row.outcome == "passed" else "➖")
    cells = [f"{sign} {row.outcome}", escaped(row.test)]
    if verdict is None:
        cells += ["", escaped(row.sentence), "", "", "", ""]
    else:
        score = " → ".join(number(verdict[key]) for key in ("baseline", "score") if verdict[key] is not None)
        cells += [
            f"{escaped(row.check)}<br>{escaped(row.judged)}",
            f"**{escaped(observed_in(verdict))}**",
            escaped(str(verdict["required"])),
            escaped(score),
            escaped(str(verdict["model"] or "")),
            escaped(str(verdict["task"] or "")),
        ]
    return "| " + " | ".join(cells) + " |\n"


def _explanation(row: Row) -> str:
    message = visible(row.message)
    if not message:
        return ""
    shown = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}\n…"
    title = html.escape(f"{row.test}: {visible(row.sentence)}").replace("\n", " ")
    # A blank line ends the block of <details>; within <pre> it does not.
    return f"\n<details><summary>{title}</summary>\n\n<pre>\n{html.escape(shown)}\n</pre>\n\n</details>\n"
