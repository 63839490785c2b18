"""Groups of heads that attend alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import Head, HeadLike
from pytest_bertology.heads.maps import as_head, is_whole

if TYPE_CHECKING:
    from pytest_bertology.measures.divergence import HeadDivergence


@dataclass(frozen=True, repr=False)
class HeadClusters:
    """Heads in groups, by the mean Jensen-Shannon divergence between them."""

    heads: tuple[Head, ...]
    labels: tuple[int, ...]
    """The group of each head; groups are numbered from 0 as they first come up among the heads."""
    medoids: tuple[Head, ...]
    """Of each group the head that diverges least from the others in it."""
    within: tuple[float, ...]
    """Of each group the mean divergence between two of its heads, in nats; 0 for a head alone."""
    silhouette: float | None
    """Mean silhouette: 1 where groups lie far apart, 0 where they touch. None for one group, or a head in each."""
    model: str
    task: str

    def __len__(self) -> int:
        return len(self.medoids)

    def __repr__(self) -> str:
        told = "" if self.silhouette is None else f", silhouette {self.silhouette:.3f}"
        return f"HeadClusters({len(self)} groups of {len(self.heads)} heads of {self.model}{told})"

    @property
    def groups(self) -> tuple[tuple[Head, ...], ...]:
        """The heads of each group."""
        return tuple(
            tuple(head for head, label in zip(self.heads, self.labels, strict=True) if label == group)
            for group in range(len(self))
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many heads each group has."""
        return tuple(map(len, self.groups))

    def of(self, head: HeadLike) -> int:
        """The group of a head."""
        found = as_head(head)
        if found not in self.heads:
            raise InvalidArgument("head", str(found), f"one of the {len(self.heads)} heads that were grouped")
        return self.labels[self.heads.index(found)]

    def table(self) -> str:
        """Every group, the largest first: its size, medoid, mean divergence and heads."""
        width = max(6, *(len(str(head)) for head in self.heads))
        told = "" if self.silhouette is None else f", silhouette {self.silhouette:.3f}"
        lines = [
            f"{len(self)} groups of heads of {self.model} on {self.task}{told}",
            f"{'group':>5}  {'size':>4}  {'medoid':<{width}}  {'JS within':>9}  heads",
        ]
        for group in sorted(range(len(self)), key=lambda group: -self.sizes[group]):
            start = f"{group:>5}  {self.sizes[group]:>4}  {self.medoids[group]!s:<{width}}  {self.within[group]:>9.4f}"
            lines.append(f"{start}  {', '.join(map(str, self.groups[group]))}")
        return "\n".join(lines)


def cluster_heads(divergence: HeadDivergence, n: int | None = None, *, threshold: float | None = None) -> HeadClusters:
    """Groups by agglomeration: the two groups whose heads diverge least on average are joined, again and again.

    Until `n` groups are left, or until all diverge by `threshold` nats or more; one of the two is to be given.
    """
    count = len(divergence.heads)
    if (n is None) == (threshold is None):
        raise InvalidArgument("n", n, "either a number of groups, or threshold= a divergence in nats")
    if n is not None and not (is_whole(n) and 1 <= n <= count):
        raise InvalidArgument("n", n, f"a number of groups from 1 to {count}")
    numeric = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if threshold is not None and not (numeric and 0.0 < threshold <= np.log(2)):
        raise InvalidArgument("threshold", threshold, "a divergence above 0 and up to ln 2, in nats")
    labels = _joined(divergence.mean, n, threshold)
    groups = [np.flatnonzero(labels == group) for group in range(labels.max() + 1)]
    insides = [divergence.mean[np.ix_(group, group)] for group in groups]
    return HeadClusters(
        heads=divergence.heads,
        labels=tuple(labels.tolist()),
        medoids=tuple(
            divergence.heads[group[inside.sum(axis=1).argmin()]] for group, inside in zip(groups, insides, strict=True)
        ),
        within=tuple(float(inside.sum() / max(1, len(inside) * (len(inside) - 1))) for inside in insides),
        silhouette=_silhouette(divergence.mean, labels),
        model=divergence.model,
        task=divergence.task,
    )


def _joined(mean: npt.NDArray[np.float64], n: int | None, threshold: float | None) -> npt.NDArray[np.int64]:
    """The group of each head, numbered as they come."""
    from sklearn.cluster import AgglomerativeClustering

    found = AgglomerativeClustering(n, metric="precomputed", linkage="average", distance_threshold=threshold)
    _, first, labels = np.unique(found.fit_predict(mean), return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    numbered: npt.NDArray[np.int64] = order[labels]
    return numbered


def _silhouette(mean: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 2 <= labels.max() + 1 < len(labels):
        return None
    return float(silhouette_score(mean, labels, metric="precomputed"))
