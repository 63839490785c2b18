"""Writing figures to files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.files import written_whole
from pytest_bertology.report.figures import figure_of

FORMATS = ("png", "svg", "pdf")


def save_figure(thing: Any, path: str | os.PathLike[str], *, title: str | None = None) -> Path:
    """Draw a result and write it to `path`, as PNG, SVG or PDF by the file's ending; return the path.

    `thing` is HeadScores (a heat map), what `ablate_heads`, `ablate_all_but_one`, `pruning_curve`, `constant_curve`,
    `attention_statistics`, `head_divergence` or `head_relations` return, `AttentionMaps.view(head)`,
    `HeadDivergence.embedding()` (or a pair of it and `HeadDivergence.clusters()`), or a matplotlib figure. The file is
    written whole, under a temporary name, and renamed.

    Raises InvalidArgument for another ending or for what no figure shows, MissingExtra without matplotlib (the extra
    `figures`), OSError where the file cannot be written (FileNotFoundError where its folder is
    not there).
    """
    path = Path(path)
    ending = path.suffix.lstrip(".").lower()
    if ending not in FORMATS:
        raise InvalidArgument("path", str(path), "a file name that ends in " + ", ".join(f".{x}" for x in FORMATS))
    given = hasattr(thing, "savefig") and not isinstance(thing, type)
    figure = thing if given else figure_of(thing, title)
    cropped: dict[str, Any] = {} if given else {"bbox_inches": "tight"}  # cells are square, and may leave room around
    with written_whole(path) as temporary, warnings.catch_warnings():
        # Names of models and tasks may hold signs that matplotlib's font lacks; it draws boxes and warns.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        figure.savefig(temporary, format=ending, **cropped)
    return path
