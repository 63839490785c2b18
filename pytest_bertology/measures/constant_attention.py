"""How much attention attends: heads whose attention is the same for every text, and what that costs (PAPA)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.attending import Attended, attend
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import lengths
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.texts import Texts, TextsLike, read_texts
from pytest_bertology.errors import BertologyWarning, InvalidArgument, TooMuchMemory
from pytest_bertology.heads import Head, HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model, check_model_and_task
from pytest_bertology.measures.curve import _figure, _fractions, _heads
from pytest_bertology.measures.evaluation import evaluate_exactly
from pytest_bertology.measures.ordering import check_by, name_of, ordering_scores
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.retention import trained_outcomes
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.constants import ConstantAttention, marks_of
from pytest_bertology.tasks.metrics import Array, Metric
from pytest_bertology.tasks.task import Task

_WHAT = "constant attention"
_ROUNDING = 1e-9


def constant_attention(
    model: ModelUnderTest,
    texts: TextsLike,
    *,
    batching: Batching | None = None,
    max_tokens: int | None = None,
    memory: int = 2**31,
) -> ConstantAttention:
    """The mean attention of each head, place by place: C[i, j] = Σ A[i, j] m_i m_j / Σ m_i m_j over the texts.

    PAPA (Hassid et al. 2022): i and j are places within a text, whatever the padding; where no text has
    both places, there is no C. Of a layer that runs several times in a pass (ALBERT's), the mean over its runs. Summed
    in float64, text by text; what is kept takes 8 bytes for each head and pair of places, and no more than `memory`.
    With `max_tokens`, longer texts are left out (`left_out` says how many).

    Raises TooMuchMemory; CannotMeasure where attention is not seen (see `attend`); InvalidArgument, where no text is
    short enough too.
    """
    check_model(model)
    check_has_heads(model)
    read = read_texts(model, texts)
    if max_tokens is not None:
        read = _short(read, max_tokens)
    length = lengths(read.encoded)
    longest = int(length.max())
    needed = 8 * longest**2 * len(model.heads)
    if needed > memory:
        name = f"{_WHAT} of {len(model.heads)} heads on texts of up to {longest} tokens"
        raise TooMuchMemory(name, needed, memory, "Leave longer texts out with max_tokens, or allow more with memory.")

    def summed() -> list[npt.NDArray[np.float64]]:
        totals = [np.zeros((layer.heads, longest, longest)) for layer in model.heads.layers]
        attend(model, read, _Sums(model, totals).add, what=_WHAT, batching=batching)
        return totals

    totals = within_memory(_WHAT, model, summed)
    at = np.arange(longest)
    seen = (length[:, None] > at).sum(axis=0)[np.maximum(at[:, None], at[None, :])]
    for site, total in zip(model.sites, totals, strict=True):
        total /= seen * max(1, len(site.taps))
    left_out = len(read.encoded.truncated) if max_tokens is not None else 0
    marks = np.unique(marks_of(read.texts))
    return ConstantAttention(model.heads, tuple(totals), seen, read.name, left_out, marks)


def _short(read: Texts, most: int) -> Texts:
    """Without texts of more tokens; those left out are counted as truncated."""
    if not is_whole(most) or most < 1:
        raise InvalidArgument("max_tokens", most, "a whole number of tokens from 1")
    kept = [at for at, example in enumerate(read.encoded.examples) if len(example.ids) <= most]
    if not kept:
        shortest = int(lengths(read.encoded).min())
        raise InvalidArgument("max_tokens", most, f"at least {shortest}, the tokens of the shortest of {read.name}")
    out = tuple(sorted(set(range(len(read))) - set(kept)))
    encoded = replace(read.encoded, examples=tuple(read.encoded.examples[at] for at in kept), truncated=out)
    return replace(
        read,
        texts=tuple(read.texts[at] for at in kept),
        encoded=encoded,
        offsets=None,
        special=tuple(read.special[at] for at in kept),
    )


class _Sums:
    """Adds attention up, place by place."""

    def __init__(self, model: ModelUnderTest, totals: Sequence[Array]) -> None:
        self._totals = totals
        counts = np.cumsum([0, *model.heads.per_layer])
        self._starts = counts[:-1]

    def add(self, shown: Attended) -> None:
        """Add some texts of a batch."""
        start = int(self._starts[shown.site])
        total = self._totals[shown.site][shown.heads.start - start : shown.heads.stop - start]
        if bool(shown.real[:, 0].all()):  # all texts start where the batch does, and padding is 0
            n = shown.real.shape[1]
            total[:, :n, :n] += shown.weights.double().sum(dim=0).cpu().numpy()
            return
        for _, weights in shown.each():
            n = weights.shape[-1]
            total[:, :n, :n] += weights.double().cpu().numpy()


class ConstantPoint(NamedTuple):
    """One measured point of a curve of constant heads."""

    fraction: float
    """The share of all heads that was asked for; whole heads are constant."""
    heads: tuple[Head, ...]
    """Those whose attention is constant."""
    score: float
    drop: float
    """How much worse than the model as trained; negative where it is better."""


@dataclass(frozen=True, repr=False)
class ConstantCurve:
    """A model's scores with ever more heads constant, the least important first; each set holds those before it."""

    fractions: tuple[float, ...]
    """Shares of all heads, ascending."""
    scores: tuple[float, ...]
    """In units of the metric, one per fraction."""
    heads: tuple[tuple[Head, ...], ...]
    """The heads that are constant, one set per fraction."""
    metric: Metric
    baseline: float
    """The score of the model as trained."""
    by: str
    """What heads were ordered by."""
    task: str
    source: str
    """The texts that the constants were estimated on."""
    model: str = ""
    """Its name."""

    def __repr__(self) -> str:
        ends = f"{self.fractions[0]:.0%}: {self.scores[0]:.4f} … {self.fractions[-1]:.0%}: {self.scores[-1]:.4f}"
        return f"ConstantCurve({self.metric.name} {self.baseline:.4f}, constant by {self.by} {ends})"

    def __len__(self) -> int:
        return len(self.fractions)

    @property
    def points(self) -> tuple[ConstantPoint, ...]:
        """All measured points, in order."""
        rows = zip(self.fractions, self.heads, self.scores, strict=True)
        return tuple(ConstantPoint(*row, self.metric.drop(self.baseline, row[2])) for row in rows)

    def at(self, fraction: float) -> ConstantPoint:
        """The point measured at this fraction; raises InvalidArgument, naming the fractions, where there is none."""
        for point in self.points:
            if abs(point.fraction - fraction) <= _ROUNDING:
                return point
        measured = ", ".join(f"{known:g}" for known in self.fractions)
        raise InvalidArgument("fraction", fraction, f"a measured one: {measured}")

    def table(self) -> str:
        """A text table: fraction, constant heads, score, drop."""
        width = max(10, len(self.metric.name))
        lines = [f"fraction  constant  {self.metric.name:>{width}}  {'drop':>8}"]
        for point in self.points:
            heads = len(point.heads)
            lines.append(f"{point.fraction:>8.2%}  {heads:>8}  {point.score:>{width}.4f}  {point.drop:>8.4f}")
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw the curve on a matplotlib axes, by default a new one; return the axes. `save_figure` makes a file.

        Raises MissingExtra without matplotlib.
        """
        ax = _figure().add_subplot() if ax is None else ax
        shares = [100 * fraction for fraction in self.fractions]
        ax.plot(shares, self.scores, marker="o", label=f"constant, by {self.by}")
        ax.axhline(self.baseline, color="grey", linestyle="--", linewidth=1, label="as trained")
        ax.set(xlabel="heads with constant attention (%)", ylabel=self.metric.name, title=self.task)
        ax.legend()
        return ax


@remakeable
@announced("constant-curve")
def constant_curve(
    model: ModelUnderTest,
    task: Task,
    constants: ConstantAttention | TextsLike,
    by: str | Method | HeadScores = "gradient",
    fractions: Sequence[float] | None = None,
    *,
    seed: int = 0,
    batching: Batching | None = None,
) -> ConstantCurve:
    """The scores with growing fractions of all heads constant, the least important first (Hassid et al. 2022, fig. 2).

    `constants` are what `constant_attention` estimated, or the texts to estimate them on, such as other examples of the
    task's kind. `fractions` are 0, 0.1, … 1 by default; each is rounded to whole heads. `by` names an importance method
    or holds scores, as in `pruning_curve`. Masks and other changes of attention in force around the call stay in force;
    the baseline is the model as trained.

    Raises InvalidArgument, for constants that are estimated on all judged texts too (BertologyWarning: on some of
    them), UndefinedScore where all heads are as important, CannotMeasure and CannotChangeAttention
    where attention is not seen or a text is longer than those of the constants.
    """
    check_model_and_task(model, task)
    check_has_heads(model)
    check_by(model, by)
    total = len(model.heads)
    wanted = _fractions(fractions, total, total)
    constants = as_constants(model, constants, batching)
    refuse_judged(task, constants)
    mask = model.mask_in_force()
    order, name = list(model.heads), name_of(by)
    if any(0 < _heads(fraction, total) < total for fraction in wanted):
        scores = ordering_scores(model, task, by, mask, seed=seed, batching=batching)
        order, name = scores.bottom(total), scores.method
    sets = tuple(model.heads.select(order[: _heads(fraction, total)]) for fraction in wanted)
    baseline = trained_outcomes(model, task, batching)
    found: dict[tuple[Head, ...], float] = {}
    for heads in dict.fromkeys(sets):
        if not heads:
            found[heads] = evaluate_exactly(model, task, mask, batching).score
            continue
        with model.with_constant_attention(constants, heads):
            found[heads] = evaluate_exactly(model, task, mask, batching).score
    return ConstantCurve(
        wanted,
        tuple(found[heads] for heads in sets),
        sets,
        baseline.metric,
        baseline.score,
        name,
        task.name,
        constants.source,
        model.name,
    )


def refuse_judged(task: Task, constants: ConstantAttention) -> None:
    """Raise InvalidArgument where all judged texts are among those of the constants; warn where some are."""
    judged = np.isin(marks_of(task.texts), constants.marks)
    if judged.all():
        given = f"constant attention of {constants.source}"
        expected = f"constants estimated on other texts than the judged ones of {task.name}, such as the train split"
        raise InvalidArgument("constants", given, expected)
    if judged.any():
        shared = (
            f"{int(judged.sum())} of {len(judged)} examples of {task.name} are among the texts of {constants.source}"
        )
        text = f"{shared} that the constants were estimated on: what constant attention costs is judged too low"
        warnings.warn(text, BertologyWarning, stacklevel=4)


def as_constants(
    model: ModelUnderTest, constants: ConstantAttention | TextsLike, batching: Batching | None = None
) -> ConstantAttention:
    """Constants as they are, or estimated on texts."""
    if isinstance(constants, ConstantAttention):
        return constants
    return constant_attention(model, constants, batching=batching)
