"""Scores of heads beside a baseline's: do the same heads matter, as far as the noise of the data can tell?"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from pytest_bertology.baselines.comparison import Comparison, Limits
from pytest_bertology.baselines.records import flat
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import Head, HeadMap, HeadScores

Array = npt.NDArray[Any]

MIN_CORRELATION, MIN_OVERLAP = 0.9, 0.75
"""What is required of scores whose noise is not known."""
_DRAWS = 2000
_AT_A_TIME = 2**20
_NAMED = 8
_ROUNDING = 1e-6
"""Shares of the greatest score that differ by less differ by rounding."""


def compare_scores(
    kept: Mapping[str, Any], scores: Mapping[str, Any], heads: HeadMap, method: str, limits: Limits
) -> Comparison:
    """Judge scores of the same heads by those that were kept: `scores` and, where known, `standard_errors` by layer.

    Three things can be wrong: the rank correlation (Spearman's ρ) across heads, the share of the `top` heads that are
    still among them, and a top head that has lost its importance. Limits are what the baseline's own noise gives: two
    draws of it, each with its standard errors, agree less than that with the chance of a false alarm, a third of
    `limits.level` for each of the three. Scores without standard errors are judged by fixed limits. Where a limit is
    given, what is given alone is judged.
    """
    limits.only("scores of heads", "min_correlation", "min_overlap", "top")
    before, now = flat(kept["scores"], heads), flat(scores["scores"], heads)
    now = _without_rounding(before, now)
    errors = [flat(each["standard_errors"], heads) if "standard_errors" in each else None for each in (kept, scores)]
    k = _top(limits, len(heads))
    judged = _Judged(before, now, errors[0], errors[1], k, limits)
    lost = judged.lost()
    rows = {
        "correlation": f"{judged.said(judged.correlation, judged.correlations)} (Spearman, {len(heads)} heads); "
        f"required: at least {judged.min_correlation:.4f}{judged.why('min_correlation')}",
        f"top {k}": f"{judged.said(judged.overlap, judged.overlaps)} of them still among the top {k}; "
        f"required: at least {judged.min_overlap:.4f}{judged.why('min_overlap')}",
    }
    ranks = [HeadScores(values, heads, method) for values in (before, now)]
    if lost:
        rows["lost"] = "; ".join(_fall(ranks, heads[i]) for i in lost[:_NAMED])
    rows["most moved"] = ", ".join(
        f"{head} {ranks[0].rank(head)} → {ranks[1].rank(head)}" for head in _most_moved(ranks)[:5]
    )
    evidence = {"heads": {"heads": list(map(str, heads)), "baseline": before.tolist(), "candidate": now.tolist()}}
    return Comparison(
        **judged.verdict(bool(lost), ranks, [heads[i] for i in lost]),
        rows=rows,
        evidence=evidence,
        heads=tuple(str(heads[i]) for i in lost),
        power=(
            f"with the noise of its baseline this comparison passes correlations from {judged.min_correlation:.4f} on",
        )
        if judged.correlations is not None
        else (),
    )


class _Judged:
    """Two sets of scores, how they agree, and how they must."""

    def __init__(
        self, before: Array, now: Array, error: Array | None, error_now: Array | None, k: int, limits: Limits
    ) -> None:
        self.before, self.now, self.error, self.k, self.limits = before, now, error, k, limits
        self.chosen = limits.min_correlation is not None or limits.min_overlap is not None
        self.correlation, self.overlap = (float(each[0]) for each in _agreement(before[None], now[None], k))
        self.correlations: Array | None = None
        self.overlaps: Array | None = None
        own = None
        level = limits.level / 3.0
        self.error_now = error_now
        if error is not None and error_now is not None and bool(error.any()):
            seed = zlib.crc32(np.round(before, 9).tobytes())
            draws = max(_DRAWS, int(np.ceil(10.0 / level)))
            own = _drawn(before, before, error, error, k, draws, seed)
            self.correlations, self.overlaps = _drawn(before, now, error, error_now, k, _DRAWS, seed + 1)
        self.min_correlation, self.p_correlation = self._limit("min_correlation", own, 0, self.correlation, level)
        self.min_overlap, self.p_overlap = self._limit("min_overlap", own, 1, self.overlap, level)

    def _limit(self, name: str, own: Any, index: int, observed: float, level: float) -> tuple[float, float]:
        """What is required, and the p-value of agreeing no better than the noise of the baseline allows."""
        given = getattr(self.limits, name)
        p = 1.0 if own is None else float((1 + (own[index] <= observed + 1e-12).sum()) / (1 + len(own[index])))
        if given is not None:
            return float(given), p
        if self.chosen:
            return (-1.0, 0.0)[index], p
        if own is None:
            return (MIN_CORRELATION, MIN_OVERLAP)[index], p
        return float(np.quantile(own[index], level, method="lower")), p

    def lost(self) -> list[int]:
        """Heads that lost their importance, the most important first.

        Top heads of the baseline that are behind the first 2 k now, and surely less important than they were; and any
        that moved something and moves nothing now, for any example: that is no matter of chance.
        """
        idle = np.zeros(len(self.before), dtype=bool)
        if self.error_now is not None:
            idle = (self.now == 0.0) & (self.error_now == 0.0) & (self.before != 0.0)
        found = {*self._fallen(), *map(int, np.flatnonzero(idle))}
        return sorted(found, key=lambda i: (-self.before[i], i))

    def _fallen(self) -> list[int]:
        ranks = [np.argsort(np.argsort(-values, kind="stable")) for values in (self.before, self.now)]
        n = len(self.before)
        fallen = [int(i) for i in np.argsort(ranks[0])[: self.k] if ranks[1][i] >= min(2 * self.k, n - 1)]
        if self.error is None or self.error_now is None:
            return [i for i in fallen if self.now[i] <= self.before[i] / 2.0]
        z = float(stats.norm.isf(self.limits.level / 3.0 / self.k / 2.0))
        # Intervals that do not overlap, each of them at the corrected level.
        return [i for i in fallen if self.now[i] + z * self.error_now[i] < self.before[i] - z * self.error[i]]

    def verdict(self, lost: bool, ranks: list[HeadScores], heads: list[Head]) -> dict[str, Any]:
        """What is wrong, the worst first."""
        p = min(1.0, 3.0 * min(self.p_correlation, self.p_overlap)) if self.correlations is not None else None
        method = ranks[0].method
        base = {"p_value": p, "inconclusive": False, "tests": "" if p is None or self.chosen else "change"}
        low = self.correlation < self.min_correlation - 1e-9
        few = self.overlap < self.min_overlap - 1e-9
        if lost and not self.chosen:
            count = len(heads)
            return base | {
                "passed": False,
                "tests": "",  # the p-value is that of ranks, which did not refuse it
                "observed": float(count),
                "judged": f"heads that lost their importance by {method}",
                "required": "<= 0",
                "title": f"{count} head{'' if count == 1 else 's'} lost {'its' if count == 1 else 'their'} "
                f"importance ({method})",
            }
        if few and not low:
            return base | {
                "passed": False,
                "observed": self.overlap,
                "judged": f"overlap of the top {self.k} heads by {method} with their baseline",
                "required": f">= {self.min_overlap:.4g}",
                "title": f"other heads are the most important than in the baseline ({method})",
            }
        vague = not self.chosen and self.min_correlation <= 0.0 and self.correlation < MIN_CORRELATION and not low
        wrong = f"the ranking of heads is not that of the baseline ({method})"
        noisy = f"the scores are too noisy to tell whether heads rank as in the baseline ({method}): use more examples"
        return base | {
            "passed": not low and not vague,
            "inconclusive": vague,
            "observed": self.correlation,
            "judged": f"rank correlation of {method} scores with their baseline",
            "required": f">= {MIN_CORRELATION if vague else self.min_correlation:.4g}",
            "title": noisy if vague else wrong,
        }

    def said(self, value: float, drawn: Array | None) -> str:
        """A figure with its interval, where the noise is known."""
        if drawn is None:
            return f"{value:.4f}"
        # Noise on both sides makes draws agree less than what was drawn from: the interval is put around that.
        low, high = np.clip(np.quantile(drawn, [0.025, 0.975]) + value - drawn.mean(), -1.0, 1.0)
        return f"{value:.4f} [{low:.4f}, {high:.4f}]"

    def why(self, name: str) -> str:
        """Where a limit comes from."""
        if self.chosen:
            return "" if getattr(self.limits, name) is not None else " (not judged)"
        return " (noise is not known)" if self.correlations is None else " (the baseline's own noise)"


def _top(limits: Limits, count: int) -> int:
    k = max(1, round(count / 4)) if limits.top is None else limits.top
    if k > count:
        raise InvalidArgument("top", k, f"at most {count}, the number of heads")
    return k


def _without_rounding(before: Array, now: Array) -> Array:
    """What re-batching moves is no change of rank: scores as near as that to the baseline's are the baseline's."""
    size = float(np.abs(before).max(initial=0.0))
    return np.where(np.abs(now - before) <= _ROUNDING * size, before, now)


def _drawn(before: Array, now: Array, error: Array, error_now: Array, k: int, draws: int, seed: int) -> Any:
    """How draws of both sides, each with its standard errors, agree: (draws,) correlations and overlaps."""
    generator = np.random.default_rng(seed)
    found: list[tuple[Array, Array]] = []
    rows = max(1, _AT_A_TIME // len(before))
    for start in range(0, draws, rows):
        shape = (min(rows, draws - start), len(before))
        one = before + error * generator.standard_normal(shape)
        other = now + error_now * generator.standard_normal(shape)
        found.append(_agreement(one, other, k))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _agreement(one: Array, other: Array, k: int) -> tuple[Array, Array]:
    """(rows,) Spearman's ρ, ties sharing their mean rank, and the share of the top k in common."""
    ranks = [stats.rankdata(values, axis=1) for values in (one, other)]
    centred = [each - each.mean(axis=1, keepdims=True) for each in ranks]
    norms = np.sqrt(np.square(centred[0]).sum(axis=1) * np.square(centred[1]).sum(axis=1))
    # All scores of a side equal: no ranking, so that only equal sides agree.
    same = (one == other).all(axis=1)
    products = (centred[0] * centred[1]).sum(axis=1)
    correlation = np.where(norms > 0.0, products / np.where(norms > 0.0, norms, 1.0), np.where(same, 1.0, 0.0))
    tops = [np.argsort(-values, axis=1, kind="stable")[:, :k] for values in (one, other)]
    member = np.zeros(one.shape, dtype=bool)
    np.put_along_axis(member, tops[0], True, axis=1)
    shared = np.take_along_axis(member, tops[1], axis=1).mean(axis=1)
    return np.where(same, 1.0, correlation), shared


def _most_moved(ranks: list[HeadScores]) -> list[Head]:
    return sorted(ranks[0].heads, key=lambda head: -abs(ranks[0].rank(head) - ranks[1].rank(head)))


def _fall(ranks: list[HeadScores], head: Head) -> str:
    """ "L2H8 was rank 3, is rank 71 (idle: masking it moves nothing)"."""
    before, now = ranks
    idle = " (idle: masking it moves nothing)" if now[head] == 0.0 else f" ({before[head]:.4g} → {now[head]:.4g})"
    return f"{head} was rank {before.rank(head)}, is rank {now.rank(head)}{idle}"
