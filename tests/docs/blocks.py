"""The fenced blocks of a Markdown page, with what HTML comments before them say of them.

A comment directly before a block tells the tests what to do with it, and readers of the site do not see it, but for the
first:

    <!-- not run: REASON -->    the block is not run; the site shows the reason
    <!-- slow -->               the block, and what is shown of it, is run where BERTOLOGY_DOCS is "all" (tox -e docs)
    <!-- fails -->              a test fails in the pytest session that the block's last command starts
    <!-- exit: N -->            the block's last command ends with this status
    <!-- raises: NAME -->       the block ends with this error, whose message is its output
    <!-- message of: CALL -->   the block shows the message of an error made by this call
    <!-- excerpt -->            the block repeats a part of what another page shows

A Python, TOML, INI or YAML block with a title (```python title="test_release.py"), or whose first line is a comment
with a file's name alone, is a file that the page's commands find in their folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
SLOW = ("edge_probe(", "find_prunable_heads(")
"""Calls of README.md, which has no comments for tests, that take many seconds."""
PAGES = (README, *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w+-]*)(?P<rest>.*)$")
_COMMENT = re.compile(r"^\s*<!-- (?P<text>.+) -->\s*$")
_TITLE = re.compile(r'title="(?P<title>[^"]+)"')
_NAMED = re.compile(r"^# (?P<title>[\w./-]+\.(py|toml|ini|yml|yaml))$")
_DIRECTIVES = ("not run: ", "slow", "fails", "exit: ", "raises: ", "message of: ", "excerpt", "ci", "table of ")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: Path
    line: int
    """Of its opening fence, counted from 1."""
    language: str
    text: str
    title: str | None
    directives: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    def says(self, directive: str) -> str | None:
        """What a directive of this name says; "" where it says no more than its name; None where there is none."""
        for found in self.directives:
            name, _, rest = found.partition(":")
            if name == directive:
                return rest.strip()
        return None

    @property
    def not_run(self) -> str | None:
        """The reason why it is not run, if it is not."""
        if self.says("ci") is not None:
            return "run by .ci/run in a fresh environment"
        if self.page == README and "./approved" in self.text:
            return "asks more than the tests' 50 examples can tell; tests of example_suites/release_gate run the same"
        slow = self.says("slow") is not None or (self.page == README and any(name in self.text for name in SLOW))
        if slow and os.environ.get("BERTOLOGY_DOCS") != "all":
            return "slow: run by tox -e docs"
        return self.says("not run")


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page, in order; raises AssertionError for a comment that is no directive."""
    lines = page.read_text(encoding="utf-8").split("\n")
    directives: list[str] = []
    index = 0
    while index < len(lines):
        comment, fence = _COMMENT.match(lines[index]), _FENCE.match(lines[index])
        if comment:
            directives.append(comment["text"])
            assert comment["text"].startswith(_DIRECTIVES), f"{page}:{index + 1}: unknown directive {comment['text']!r}"
        elif fence:
            end = next(i for i in range(index + 1, len(lines)) if lines[i].strip() == fence["ticks"])
            text = dedent("\n".join(lines[index + 1 : end]))
            titled = _TITLE.search(fence["rest"]) or _NAMED.match(text.split("\n")[0])
            title = titled["title"] if titled else None
            yield Block(page, index + 1, fence["language"], text, title, tuple(directives))
            directives, index = [], end
        elif lines[index].strip():
            directives = []
        index += 1
