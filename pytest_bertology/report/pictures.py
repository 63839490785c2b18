"""Results as pictures: an SVG and the same in words, as text that travels from workers and is kept in stores.

Nothing is imported for a picture that is already drawn.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pytest_bertology.report.svg import INK, tidied

if TYPE_CHECKING:
    from pytest_bertology.engine.announcing import Announcement

_LONGEST = 3_000
"""Characters of the text that stands for a picture."""
_KEPT = 16
_drawn: dict[tuple[int, str, str], tuple[Callable[[], Any], Picture]] = {}
"""What was drawn last: a store and a report ask for the same picture, one after the other."""
_WHAT = {
    "all-but-one": "layers reduced to one head",
    "amnesic": "what it costs to erase a property",
    "attention": "what heads attend to",
    "code_length": "code lengths by layer",
    "compression_path": "probes along a path of compression",
    "constant-curve": "heads with constant attention",
    "curve": "pruning curve",
    "edge_probe": "edge probes by layer",
    "probe": "probes by layer",
    "relations": "relations that heads track",
}


@dataclass(frozen=True)
class Picture:
    """A result drawn: made of text only."""

    kind: str
    """Such as "importance"."""
    title: str
    """What it shows, of which model and task, under which changes: up to three lines."""
    svg: str
    """A whole SVG document; its text and axes take the colour of the page (`currentColor`)."""
    alt: str
    """The same in words and numbers."""

    @property
    def digest(self) -> str:
        """Equal for pictures that show the same."""
        return hashlib.sha256("\0".join((self.kind, self.title, self.svg)).encode()).hexdigest()[:16]

    def to_jsonable(self) -> dict[str, str]:
        """A plain dictionary, which `Picture(**plain)` reads."""
        return asdict(self)


def picture(found: Announcement) -> Picture:
    """The picture of a result that was announced; one that is a Picture already is given as it is.

    The same result gives the same text, whenever and wherever it is drawn. Raises MissingExtra without matplotlib (the
    extra `figures`), InvalidArgument for what no figure shows.
    """
    if found.picture is not None:
        return Picture(**found.picture)
    if isinstance(found.value, Picture):
        return found.value
    title = titled(found)
    known = _drawn.get((id(found.value), found.kind, title))
    if known is not None and known[0]() is found.value:
        return known[1]
    made = _made(found, title)
    with suppress(TypeError):  # what cannot be referred to weakly is drawn again
        _drawn[id(found.value), found.kind, title] = weakref.ref(found.value), made
    while len(_drawn) > _KEPT:
        del _drawn[next(iter(_drawn))]
    return made


def _made(found: Announcement, title: str) -> Picture:
    from pytest_bertology.report.figures import figure_of

    with _of_the_page():
        figure = figure_of(found.value, title)
        figure.suptitle("")  # the page says it, in letters of its own size
        svg = _svg(figure)
    return Picture(found.kind, title, svg, in_words(found.value))


def titled(found: Announcement) -> str:
    """What a result shows, of which model and task, and what was changed of the model; a line each."""
    value = found.value
    if isinstance(value, Picture):
        return value.title
    what = _WHAT.get(found.kind, found.kind)
    if found.kind == "importance":
        what = f"{value.method} importance"
    elif found.kind == "view":
        what = f"attention of {value.head}"
    elif found.kind == "ablation":
        what = f"{value.ablation} ablation of single heads"
    of = f"{found.model} on {found.task or getattr(value, 'task', None) or getattr(value, 'data', 'texts')}"
    return "\n".join([what, of, *([found.state] if found.state else [])])


def in_words(value: Any) -> str:
    """A result as text: its own table, or each head's score, the greatest first."""
    if hasattr(value, "ranking"):
        lines = [f"{head}  {value[head]:.4g}" for head in value.ranking]
    elif hasattr(value, "tokens") and hasattr(value, "weights"):
        lines = _strongest(value.tokens, value.weights)
    elif hasattr(value, "table"):
        lines = str(value.table()).splitlines()
    else:
        lines = repr(value).splitlines()
    shown: list[str] = []
    for line in lines:
        if sum(map(len, shown)) + len(line) > _LONGEST:
            shown.append(f"… and {len(lines) - len(shown)} more lines")
            break
        shown.append(line)
    return "\n".join(shown)


def _strongest(tokens: Any, weights: Any) -> list[str]:
    """What each token attends to most."""
    return [
        f"{token} → {tokens[int(row.argmax())]}  {row.max():.3f}" for token, row in zip(tokens, weights, strict=True)
    ]


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Names of models and tasks may hold signs that matplotlib's font lacks; the page's font draws them.
        warnings.filterwarnings("ignore", message=r"(?s)Glyph .* missing from")
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return tidied(buffer.getvalue())


@contextmanager
def _of_the_page() -> Iterator[None]:
    """Figures made within have no ground, and take the page's colour; text stays text, and ids are always the same."""
    from pytest_bertology.errors import MissingExtra

    try:
        from matplotlib import rc_context
    except ImportError:
        raise MissingExtra("drawing a figure", "matplotlib", "figures") from None
    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "patch.edgecolor")
    grounds = ("figure.facecolor", "savefig.facecolor", "axes.facecolor", "legend.facecolor")
    fixed = {"svg.fonttype": "none", "svg.hashsalt": "pytest-bertology", "legend.edgecolor": "0.8"}
    with rc_context({**dict.fromkeys(inked, INK), **dict.fromkeys(grounds, "none"), **fixed}):
        yield
