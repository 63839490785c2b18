"""How differently heads attend: the Jensen-Shannon divergence between every two of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.attending import attend_batch, check_attention
from pytest_bertology.engine.batching import Batching, batches
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.engine.texts import Texts, TextsLike, read_texts, real_tokens
from pytest_bertology.errors import InvalidArgument, NothingToJudge
from pytest_bertology.heads import Head, HeadLike
from pytest_bertology.heads.maps import as_head, is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model
from pytest_bertology.measures.held_weights import HeldWeights
from pytest_bertology.models import ModelUnderTest

if TYPE_CHECKING:
    from pytest_bertology.measures.head_clusters import HeadClusters
    from pytest_bertology.measures.head_embedding import HeadEmbedding

Matrix = npt.NDArray[np.float64]

_WHAT = "divergence of heads"
_BLOCK = {"cpu": 2**18, "cuda": 2**24}
"""Numbers that are computed with at a time: on a CPU, what its cache holds."""


class HeadPair(NamedTuple):
    """Two heads, and the mean divergence between them in nats."""

    a: Head
    b: Head
    divergence: float


@dataclass(frozen=True, eq=False, repr=False)
class HeadDivergence:
    """Jensen-Shannon divergences between heads, in nats; natural logarithms."""

    heads: tuple[Head, ...]
    """The heads, in the model's order."""
    model: str
    task: str
    """The texts' name."""
    texts: int
    tokens: int
    """Query tokens that the divergence is summed over: the real ones of all texts, once for each run of the layer."""
    sum: Matrix = field(repr=False)
    """(heads, heads) Σ JS over tokens and texts, as Clark et al. 2019 have it; symmetric, 0 on the diagonal."""

    def __repr__(self) -> str:
        closest = self.closest(1)[0]
        return (
            f"HeadDivergence({self.model} on {self.task}: {len(self.heads)} heads, {self.tokens} tokens; "
            f"closest {closest.a} and {closest.b}, {closest.divergence:.4f})"
        )

    @cached_property
    def mean(self) -> Matrix:
        """(heads, heads) mean JS per token: from 0 (the same attention) to ln 2 (never to the same token)."""
        mean: Matrix = self.sum / self.tokens
        mean.setflags(write=False)
        return mean

    def between(self, a: HeadLike, b: HeadLike) -> float:
        """The mean divergence between two heads."""
        return float(self.mean[self._index(a), self._index(b)])

    def pairs(self) -> list[HeadPair]:
        """Every two heads, the closest first; of equals, the first of the map."""
        first, second = np.triu_indices(len(self.heads), 1)
        values = self.mean[first, second]
        order = np.argsort(values, kind="stable")
        return [HeadPair(self.heads[first[i]], self.heads[second[i]], float(values[i])) for i in order]

    def closest(self, k: int = 10) -> list[HeadPair]:
        """The `k` pairs of heads (or as many as there are) that attend most alike, the closest first."""
        if not is_whole(k) or k < 1:
            raise InvalidArgument("k", k, "a whole number of pairs from 1")
        return self.pairs()[:k]

    def table(self, k: int | None = None) -> str:
        """Every head, its nearest, and its mean divergence to all others, a line each: the `k` with a nearest first."""
        count = len(self.heads) if k is None else k
        if not is_whole(count) or count < 1:
            raise InvalidArgument("k", k, "a whole number of heads from 1, or None")
        others = self.mean + np.diag(np.full(len(self.heads), np.inf))
        nearest = others.argmin(axis=1)
        order = np.argsort(others.min(axis=1), kind="stable")[:count]
        width = max([7, *(len(str(head)) for head in self.heads)])
        lines = [
            f"Jensen-Shannon divergence between heads of {self.model} on {self.task}: {self.texts} texts, "
            f"{self.tokens} tokens; mean per token, in nats (at most ln 2 = {np.log(2):.4f})",
            f"{'head':<{width}}  {'nearest':<{width}}  {'JS':>8}  {'to all others':>13}",
        ]
        for at in order:
            near, mean = self.heads[nearest[at]], self.mean[at].sum() / (len(self.heads) - 1)
            lines.append(f"{self.heads[at]!s:<{width}}  {near!s:<{width}}  {others[at].min():>8.4f}  {mean:>13.4f}")
        return "\n".join(lines)

    def embedding(self, method: str = "mds", *, seed: int = 0) -> HeadEmbedding:
        """The heads as points in the plane, near where they attend alike; see `embed_heads`."""
        from pytest_bertology.measures.head_embedding import embed_heads

        return embed_heads(self, method, seed=seed)

    def clusters(self, n: int | None = None, *, threshold: float | None = None) -> HeadClusters:
        """Groups of heads that attend alike: `n` of them, or as many as `threshold` gives; see `cluster_heads`."""
        from pytest_bertology.measures.head_clusters import cluster_heads

        return cluster_heads(self, n, threshold=threshold)

    def _index(self, head: HeadLike) -> int:
        found = as_head(head)
        if found not in self.heads:
            shown = ", ".join(map(str, self.heads[:12])) + (" …" if len(self.heads) > 12 else "")
            raise InvalidArgument("head", str(found), f"one of the {len(self.heads)} heads measured: {shown}")
        return self.heads.index(found)


def head_divergence(
    model: ModelUnderTest,
    texts: TextsLike,
    *,
    heads: Iterable[HeadLike] | None = None,
    batching: Batching | None = None,
) -> HeadDivergence:
    """The Jensen-Shannon divergence between every two heads' attention (Clark et al. 2019, section 6).

    JS(p, q) = H((p + q) / 2) − (H(p) + H(q)) / 2 of what a token attends to by one head and by another, 0·ln 0 = 0,
    summed over the real tokens of all texts (a list of strings or pairs, or a task): exact, for heads of all layers
    and stacks, or of `heads` alone. The model runs as it is, under the masks in force. No more than 64 MiB of weights
    are held at a time; a longer text is run several times. Where a layer runs several times (ALBERT's), the first runs
    of two heads are compared, then the second, and so on. Weight that goes to no token, but to a sink, is left out.

    Raises CannotMeasure where the weights cannot be had, or layers run unequally often; NothingToJudge for fewer than
    two heads; UnknownHead; NoTokenizer; EmptyTask, InvalidArgument or MalformedData for texts that are none; NonFinite.
    """
    check_model(model)
    check_has_heads(model)
    chosen = tuple(model.heads) if heads is None else model.heads.select(heads)
    if len(chosen) < 2:
        what = f"{len(chosen)} head{'s' if len(chosen) != 1 else ''} to compare"
        raise NothingToJudge(what, "Divergence is between heads: name two or more.")
    batching = batching or Batching()
    read = read_texts(model, texts)
    at = tuple(model.heads.index(head) for head in chosen)
    stored = computed_once(
        "head divergence 1" + ("" if heads is None else f", heads {at}"),
        (model, read.encoded, model.mask_in_force(), batching),
        lambda: _measure(model, read, at, batching),
    )
    return HeadDivergence(chosen, model.name, read.name, len(read), int(stored["tokens"]), stored["sum"])


def _measure(model: ModelUnderTest, texts: Texts, heads: Sequence[int], batching: Batching) -> Arrays:
    held = HeldWeights(model, heads, _WHAT)
    check_attention(model, _WHAT)
    totals = np.zeros((len(heads), len(heads)))
    tokens = done = 0
    with torch.inference_mode(), model.frozen(), tracked(f"{texts.name}, {_WHAT}", len(texts)) as show:
        for batch in batches(model, texts.encoded, batching):
            real = real_tokens(texts.encoded, batch, batching)
            tokens += int(real.sum())
            for spans in held.passes(batch, real):
                held.hold(spans)
                attend_batch(model, texts, batch, real, held.visit, what=_WHAT, sites=held.sites)
                for weights in held.taken():
                    totals += negative_entropies(weights)
            done += len(batch.positions)
            show(done)
    return {"sum": divergences(totals), "tokens": np.array(tokens * held.runs)}


def negative_entropies(weights: Tensor) -> Matrix:
    """(heads, heads) Σ m ln m over m = (p + q) / 2 of every two heads, from (heads, numbers); upper triangle.

    On the diagonal is each head's own Σ p ln p.
    """
    count = len(weights)
    weights = weights[:, (weights != 0.0).any(dim=0)]  # what no head attends to: the future, for causal models
    block = max(1, _BLOCK.get(weights.device.type, _BLOCK["cuda"]) // count)
    smallest = torch.finfo(weights.dtype).tiny
    totals = np.zeros((count, count))
    for part in torch.split(weights, block, dim=1):
        halves = part * 0.5
        sums = halves.new_zeros(count, count)
        for head in range(count):
            mixed = halves[head:] + halves[head]
            sums[head, head:] = mixed.clamp_min(smallest).log_().mul_(mixed).sum(dim=1)  # 0 · ln tiny = 0
        totals += sums.cpu().double().numpy()
    return totals


def divergences(totals: Matrix) -> Matrix:
    """(heads, heads) summed Jensen-Shannon divergences, from what `negative_entropies` gives, added up."""
    own = np.diagonal(totals)
    upper = np.triu((own[:, None] + own[None, :]) / 2 - totals, 1)
    found: Matrix = np.maximum(upper + upper.T, 0.0)  # rounding alone makes it less
    return found
