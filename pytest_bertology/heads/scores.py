"""Head scores: a number for every head of a map."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_bertology.errors import InvalidArgument, InvalidScores, MaskOfAnotherModel, UndefinedScore
from pytest_bertology.heads.maps import Head, HeadLike, HeadMap, is_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores:
    """One finite number per head, and the method it comes from; the greatest is the most important."""

    values: npt.NDArray[np.float64] = field()
    """One value per head, in the map's order."""
    heads: HeadMap = field()
    method: str = field()
    details: Mapping[str, float] = field(default_factory=dict)
    """What the method says of its own accuracy, such as `completeness_error`."""
    standard_errors: npt.NDArray[np.float64] | None = None
    """One per value, of the choice of examples (their spread / √n); None where a method has none."""

    def __post_init__(self) -> None:
        import numpy as np

        values = np.array(self.values, dtype=np.float64)
        if values.shape != (len(self.heads),):
            raise InvalidScores(f"an array of shape {values.shape}", f"one number for each of {len(self.heads)} heads")
        if not np.isfinite(values).all():
            bad = [str(head) for head, value in zip(self.heads, values, strict=True) if not math.isfinite(value)]
            raise InvalidScores(f"NaN or infinity for {', '.join(bad[:8])}", "finite")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "details", dict(self.details))
        if self.standard_errors is not None:
            errors = np.array(self.standard_errors, dtype=np.float64)
            if errors.shape != values.shape or not bool((errors >= 0.0).all() and np.isfinite(errors).all()):
                raise InvalidScores(f"standard errors {errors}", f"{len(values)} numbers from 0")
            errors.setflags(write=False)
            object.__setattr__(self, "standard_errors", errors)

    def __getitem__(self, head: HeadLike) -> float:
        return float(self.values[self.heads.index(head)])

    def __len__(self) -> int:
        return len(self.heads)

    def __repr__(self) -> str:
        top = ", ".join(f"{head} {self[head]:.3g}" for head in self.top(min(5, len(self))))
        return f"HeadScores({self.method}: {top}{' …' if len(self) > 5 else ''}; {self.heads.describe()})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Hypothesis prints a failing test's arguments field by field where it is not told otherwise.
        printer.text(repr(self))

    @cached_property
    def ranking(self) -> tuple[Head, ...]:
        """All heads, the most important first; equal scores in the map's order."""
        import numpy as np

        return tuple(self.heads[int(i)] for i in np.argsort(-self.values, kind="stable"))

    @cached_property
    def _ranks(self) -> dict[Head, int]:
        return {head: rank for rank, head in enumerate(self.ranking)}

    def top(self, k: int) -> list[Head]:
        """The `k` most important heads, the most important first."""
        return list(self.ranking[: self._count(k)])

    def bottom(self, k: int) -> list[Head]:
        """The `k` least important heads, the least important first."""
        return list(self.ranking[::-1][: self._count(k)])

    def rank(self, head: HeadLike) -> int:
        """How many heads are more important: 0 for the most important."""
        return self._ranks[self.heads[self.heads.index(head)]]

    def normalized(self, per_layer: bool = True, min_max: bool = True) -> HeadScores:
        """Divide each layer by its L2 norm, then bring all scores to [0, 1] (Michel et al. 2019, section 4).

        A layer of zeros stays zero; where all scores are equal, min-max makes them all 0. Standard errors are divided
        by the same numbers.
        """
        import numpy as np

        values, units = self.values.copy(), np.ones(len(self.values))
        if per_layer:
            start = 0
            for count in self.heads.per_layer:
                norm = float(np.linalg.norm(values[start : start + count]))
                if norm > 0.0:
                    units[start : start + count] = norm
                start += count
            values /= units
        if min_max and len(values):
            spread = values.max() - values.min()
            values = (values - values.min()) / spread if spread > 0.0 else np.zeros_like(values)
            units *= spread if spread > 0.0 else np.inf
        errors = None if self.standard_errors is None else self.standard_errors / units
        return HeadScores(values, self.heads, self.method, self.details, errors)

    def rank_correlation(self, other: HeadScores) -> float:
        """Spearman's rank correlation with scores of the same heads, ties sharing their mean rank.

        Raises MaskOfAnotherModel where the heads differ, UndefinedScore where all scores of one side are equal.
        """
        import numpy as np

        if self.heads != other.heads:
            raise MaskOfAnotherModel(other.heads.describe(), self.heads.describe())
        ours, theirs = _mean_ranks(self.values), _mean_ranks(other.values)
        for scores, ranks in ((self, ours), (other, theirs)):
            if len(ranks) < 2 or ranks.std() == 0.0:
                raise UndefinedScore("the rank correlation", f"all {scores.method} scores are equal")
        return float(np.clip(np.corrcoef(ours, theirs)[0, 1], -1.0, 1.0))

    def to_numpy(self) -> npt.NDArray[np.float64]:
        """A new array (layers, heads), NaN where a layer has fewer heads than the widest."""
        import numpy as np

        counts = self.heads.per_layer
        table = np.full((len(counts), max(counts, default=0)), np.nan)
        start = 0
        for row, count in enumerate(counts):
            table[row, :count] = self.values[start : start + count]
            start += count
        return table

    def _count(self, k: int) -> int:
        if not is_whole(k) or not 0 <= k <= len(self.heads):
            raise InvalidArgument("k", k, f"a whole number from 0 to {len(self.heads)}, the number of heads")
        return int(k)


def refuse_equal(scores: HeadScores) -> None:
    """Raise UndefinedScore where all of several heads score the same: the map's order would decide, and no score."""
    if len(scores) > 1 and (scores.values == scores.values[0]).all():
        raise UndefinedScore("the ranking", f"all {scores.method} scores are equal")


def _mean_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 0, equal values sharing the mean of theirs."""
    import numpy as np

    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: npt.NDArray[np.float64] = ends - (counts + 1) / 2
    return means[inverse]
