"""Text of data sets and models where people read it: nothing hidden in it acts on the page or terminal."""

from __future__ import annotations

import re

# Control characters but tab and newline, signs that turn or hide text (bidirectional overrides, zero widths, tags),
# and halves of surrogate pairs, which no file can hold.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""The text with what cannot be seen written as an escape, such as `\x1b` or `\u202e`; lines and tabs stay."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text.replace("\r\n", "\n"))


def number(value: float | int | None) -> str:
    """A number as people read it: four digits that count; "undefined" for none."""
    if value is None:
        return "undefined"
    return str(value) if isinstance(value, bool | int) else f"{value:.4g}"


def counted(count: int, what: str) -> str:
    """Such as "1 check" and "2 checks"."""
    return f"{count} {what}{'s' * (count != 1)}"
