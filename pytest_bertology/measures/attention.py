"""What each head looks at: statistics of its attention weights, mean over the tokens of many texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.attending import Attended, attend
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.engine.texts import Marks, Texts, TextsLike, marks, read_texts
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.heads import Head, HeadLike, HeadMap, HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.models import ModelUnderTest

Sums = npt.NDArray[np.float64]

TARGETS = ("self", "next", "previous", "first", "cls", "sep", "punctuation", "same_token")
"""What a token's attention may go to."""
_LATER, _UNIFORM = "later", "uniform"
_LINEAR = (*(f"to_{target}" for target in TARGETS), "distance", _LATER)
STATISTICS = ("entropy", "cls_entropy", "distance", "confidence", *(f"to_{target}" for target in TARGETS))
_LACKING = {
    "cls_entropy": "its tokenizer puts no [CLS] there, or the texts were read without",
    "confidence": "the texts hold no token but those that end a sentence",
    "to_next": "every text is one token long, or no layer looks ahead",
    "to_previous": "every text is one token long",
    "to_cls": "its tokenizer puts no [CLS] there",
    "to_sep": "its tokenizer puts neither a separator nor an end-of-sentence token there",
    "to_punctuation": "no text holds a token of punctuation",
    "to_same_token": "no text holds a token twice where it can be seen",
}


@dataclass(frozen=True, eq=False, repr=False)
class AttentionStatistics:
    """Statistics of every head's attention weights A[i, j], of query token i to key token j; natural logarithms.

    Each is a mean over query tokens of all texts, padding apart: `to_…`, over those tokens that have such a token in
    their text (and not behind them, in layers that never look ahead); special tokens such as [CLS] are tokens too.
    """

    heads: HeadMap
    model: str
    task: str
    """The texts' name."""
    texts: int
    counts: Mapping[str, int]
    """How many query tokens each statistic is a mean over (of several stacks: the most)."""
    uniform_entropy: HeadScores
    """Entropy of even attention to all tokens that a head can see, the most there can be: ln n, mean over query tokens;
    ln (i + 1) in layers that were never seen to look ahead."""
    _means: Mapping[str, Sums] = field(repr=False)

    @property
    def entropy(self) -> HeadScores:
        """−Σ_j A ln A, in nats: 0 for attention to one token, ln n for even attention (Clark et al. 2019, 3.3)."""
        return self.statistic("entropy")

    @property
    def cls_entropy(self) -> HeadScores:
        """The entropy of [CLS] alone."""
        return self.statistic("cls_entropy")

    @property
    def distance(self) -> HeadScores:
        """Σ_j A |i − j|, in tokens."""
        return self.statistic("distance")

    @property
    def confidence(self) -> HeadScores:
        """The greatest weight, tokens that end a sentence neither attending nor attended to (Voita et al. 2019, 4)."""
        return self.statistic("confidence")

    @property
    def to_self(self) -> HeadScores:
        """Attention to the token itself."""
        return self.statistic("to_self")

    @property
    def to_next(self) -> HeadScores:
        """Attention to the next token, of tokens that have one; undefined where no layer looks ahead."""
        return self.statistic("to_next")

    @property
    def to_previous(self) -> HeadScores:
        """Attention to the previous token, of tokens that have one."""
        return self.statistic("to_previous")

    @property
    def to_first(self) -> HeadScores:
        """Attention to the first token of the text."""
        return self.statistic("to_first")

    @property
    def to_cls(self) -> HeadScores:
        """Attention to [CLS]."""
        return self.statistic("to_cls")

    @property
    def to_sep(self) -> HeadScores:
        """Attention to all [SEP]; to the end-of-sentence token where the tokenizer has no separator."""
        return self.statistic("to_sep")

    @property
    def to_punctuation(self) -> HeadScores:
        """Attention to tokens of punctuation (Unicode categories P), in texts that have such."""
        return self.statistic("to_punctuation")

    @property
    def to_same_token(self) -> HeadScores:
        """Attention to other occurrences of the same token, of tokens that have such (and can see one)."""
        return self.statistic("to_same_token")

    def statistic(self, name: str) -> HeadScores:
        """One statistic: "entropy" or "to_previous", or "previous" for short.

        Raises InvalidArgument for an unknown name, UndefinedScore where no token of the texts has such a target.
        """
        found = statistic_name(name)
        if not self.counts[found]:
            raise UndefinedScore(f"{found} of {self.model} on {self.task}", _LACKING.get(found, "no token has it"))
        return HeadScores(self._means[found], self.heads, found)

    @property
    def available(self) -> tuple[str, ...]:
        """The statistics that these texts give."""
        return tuple(name for name in STATISTICS if self.counts[name])

    def top(self, statistic: str, k: int = 5) -> list[Head]:
        """The `k` heads with most of a statistic, such as "previous"; of equals, the first of the map."""
        scores = self.statistic(statistic)
        return scores.top(min(k, len(scores)) if is_whole(k) and k > 0 else k)

    def of(self, head: HeadLike) -> dict[str, float]:
        """All statistics of one head."""
        return {name: self.statistic(name)[head] for name in self.available}

    def even(self) -> str:
        """The entropy of even attention, as text; of stacks that differ, each."""
        return " or ".join(f"{value:.3f}" for value in sorted(set(self.uniform_entropy.values)))

    def table(self, k: int | None = None, by: str | None = None) -> str:
        """Every head (or the first `k`) and its statistics, a line each; sorted by one of them, else in order."""
        count = len(self.heads) if k is None else k
        order = list(self.heads) if by is None else list(self.statistic(by).ranking)
        if not is_whole(count) or count < 1:
            raise InvalidArgument("k", k, "a whole number of heads from 1")
        names = self.available
        width = max([4, *(len(str(head)) for head in self.heads)])
        columns = [name.removeprefix("to_").replace("_", " ") for name in names]
        columns = [f"{column:>{max(8, len(column))}}" for column in columns]
        means = {name: self.statistic(name) for name in names}
        lines = [
            f"attention of {self.model} on {self.task}: {self.texts} texts, {self.counts['entropy']} tokens; "
            f"even attention has an entropy of {self.even()}",
            "  ".join([f"{'head':<{width}}", *columns]),
        ]
        for head in order[:count]:
            cells = [f"{means[n][head]:>{len(column)}.3f}" for n, column in zip(names, columns, strict=True)]
            lines.append("  ".join([f"{head!s:<{width}}", *cells]))
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"AttentionStatistics({self.model} on {self.task}: {len(self.heads)} heads, {self.texts} texts, "
            f"{self.counts['entropy']} tokens)"
        )


def statistic_name(name: str) -> str:
    """The full name of a statistic; raises InvalidArgument for none."""
    if isinstance(name, str) and name in STATISTICS:
        return name
    if isinstance(name, str) and f"to_{name}" in STATISTICS:
        return f"to_{name}"
    raise InvalidArgument("statistic", name, f"one of {', '.join(STATISTICS)}")


@remakeable
@announced("attention")
def attention_statistics(
    model: ModelUnderTest, texts: TextsLike, *, batching: Batching | None = None
) -> AttentionStatistics:
    """What each head attends to on texts (a list of strings or pairs, or a task): see `AttentionStatistics`.

    Clark et al. 2019, section 3. The model runs as it is, under the masks in force; weights are computed again from
    query and key within each attention call, compared with what the call gave, reduced, and forgotten. Encoder-decoder
    models read each text on both sides: the encoder's token i is the decoder's.

    Raises CannotMeasure where the weights cannot be had; NoTokenizer; EmptyTask, InvalidArgument or MalformedData for
    texts that are none; NonFinite.
    """
    check_model(model)
    check_has_heads(model)
    batching = batching or Batching()
    read = read_texts(model, texts)
    known = marks(model)
    stored = computed_once(
        f"attention statistics 2, {_signature(read, known)}",
        (model, read.encoded, model.mask_in_force(), batching),
        lambda: _measure(model, read, known, batching),
    )
    counts = {name: int(stored["counts"][index]) for index, name in enumerate(STATISTICS)}
    means = {name: stored["means"][index] for index, name in enumerate(STATISTICS)}
    uniform = HeadScores(stored["uniform"], model.heads, "entropy of even attention")
    return AttentionStatistics(model.heads, model.name, read.name, len(read), counts, uniform, means)


def _signature(texts: Texts, known: Marks) -> str:
    """What the statistics depend on beside ids: which of them are special, and which are punctuation."""
    ids = sorted({token for example in texts.encoded.examples for token in example.ids})
    punctuation = [token for token in ids if known.is_punctuation(token)]
    said = repr((known.cls, known.separators, known.ends, punctuation))
    return hashlib.sha256(said.encode()).hexdigest()


def _measure(model: ModelUnderTest, texts: Texts, known: Marks, batching: Batching) -> Arrays:
    sums = {name: np.zeros(len(model.heads)) for name in (*STATISTICS, _LATER)}
    features: _Features | None = None

    def visit(attended: Attended) -> None:
        nonlocal features
        if features is None or features.key != (attended.positions, attended.weights.dtype):
            features = _Features(texts, known, attended)
        for name, found in _reduced(attended.weights, features).items():
            sums[name][attended.heads] += found.double().cpu().numpy()

    attend(model, texts, visit, what="attention statistics", batching=batching)
    both = _counts(texts, known, causal=False), _counts(texts, known, causal=True)
    ahead = _looks_ahead(model, sums[_LATER])
    counts = {name: np.where(ahead, both[0][name], both[1][name]) for name in (*STATISTICS, _UNIFORM)}
    most = {name: int(counts[name].max()) for name in STATISTICS}
    runs = np.concatenate([np.full(site.heads, len(site.taps)) for site in model.sites])
    means = np.stack([sums[name] / (np.maximum(counts[name], 1) * runs) for name in STATISTICS])
    return {
        "means": means,
        "counts": np.array([most[name] for name in STATISTICS]),
        "uniform": counts[_UNIFORM] / counts["entropy"],
    }


def _looks_ahead(model: ModelUnderTest, later: Sums) -> npt.NDArray[np.bool_]:
    """(heads,) whether any head of the layer attended to a later token, ever so little."""
    ends = np.cumsum([site.heads for site in model.sites])[:-1]
    return np.concatenate([np.full(len(own), bool((own > 0.0).any())) for own in np.split(later, ends)])


class _Features:
    """What the tokens of some texts of a batch are, as tensors that attention weights are multiplied by."""

    def __init__(self, texts: Texts, known: Marks, attended: Attended) -> None:
        real, dtype = attended.real, attended.weights.dtype
        self.key = (attended.positions, dtype)
        rows, length = real.shape
        device = real.device
        ids = torch.full((rows, length), -1, dtype=torch.long)
        punctuation = torch.zeros((rows, length), dtype=torch.bool)
        for row, position in enumerate(attended.positions):
            at = real[row].cpu()
            own = texts.ids(position)
            ids[row, at] = torch.tensor(own)
            punctuation[row, at] = torch.from_numpy(known.punctuation(own))
        ids, punctuation = ids.to(device), punctuation.to(device)
        self.ends = _among(ids, known.ends)
        self.cls = _among(ids, () if known.cls is None else (known.cls,))
        place = torch.arange(length, device=device)
        offset = place[None, :] - place[:, None]
        first = torch.zeros_like(real)
        first[torch.arange(rows, device=device), real.long().argmax(dim=1)] = True
        keys = {"first": first, "cls": self.cls, "sep": _among(ids, known.separators), "punctuation": punctuation}
        columns = {"self": offset == 0, "next": offset == 1, "previous": offset == -1}
        maps = torch.empty((rows, length, length, len(_LINEAR)), dtype=dtype, device=device)
        for index, target in enumerate(TARGETS):
            if target in columns:
                maps[..., index] = columns[target]
            elif target in keys:
                maps[..., index] = keys[target][:, None, :]
            else:
                maps[..., index] = (ids[:, :, None] == ids[:, None, :]) & (offset != 0)
        maps[..., _LINEAR.index("distance")] = offset.abs()
        maps[..., _LINEAR.index(_LATER)] = offset > 0
        self.maps = maps.reshape(rows, length * length, len(_LINEAR))
        """(texts, queries · keys, statistics) that are sums of weights."""


def _among(ids: Tensor, wanted: Iterable[int]) -> Tensor:
    return torch.isin(ids, torch.tensor(list(wanted), dtype=ids.dtype, device=ids.device))


def _reduced(weights: Tensor, features: _Features) -> dict[str, Tensor]:
    """Sums over the query tokens of some texts, (heads,) each; padding has weights of 0 and adds nothing."""
    linear = (weights.flatten(2) @ features.maps).double().sum(dim=0)
    found = {name: linear[:, index] for index, name in enumerate(_LINEAR)}
    entropies = torch.special.entr(weights).sum(dim=-1).double()
    found["entropy"] = entropies.sum(dim=(0, 2))
    found["cls_entropy"] = (entropies * features.cls[:, None, :]).sum(dim=(0, 2))
    greatest = weights.masked_fill(features.ends[:, None, None, :], 0.0).amax(dim=-1).double()
    found["confidence"] = (greatest * ~features.ends[:, None, :]).sum(dim=(0, 2))
    return found


def _counts(texts: Texts, known: Marks, *, causal: bool) -> dict[str, float]:
    """How many query tokens have what each statistic is about, where tokens see later ones or not.

    And under `_UNIFORM` the sum of the logarithms of how many tokens each sees.
    """
    totals = dict.fromkeys((*STATISTICS, _UNIFORM), 0.0)
    for index in range(len(texts)):
        for name, count in _counts_of(np.array(texts.ids(index)), known, causal).items():
            totals[name] += count
    return totals


def _counts_of(ids: npt.NDArray[np.int64], known: Marks, causal: bool) -> dict[str, float]:
    n = len(ids)
    _, occurrences = np.unique(ids, return_counts=True)
    again = occurrences - 1 if causal else occurrences
    targets = {
        "to_cls": ids == known.cls if known.cls is not None else np.zeros(n, dtype=bool),
        "to_sep": np.isin(ids, known.separators),
        "to_punctuation": known.punctuation(ids.tolist()),
    }
    seen = {name: n - int(found.argmax()) if causal else n for name, found in targets.items() if found.any()}
    return {
        "entropy": n,
        "cls_entropy": int(targets["to_cls"].sum()),
        "distance": n,
        "confidence": int((~np.isin(ids, known.ends)).sum()),
        "to_self": n,
        "to_next": 0 if causal else n - 1,
        "to_previous": n - 1,
        "to_first": n,
        "to_same_token": int(again[occurrences > 1].sum()),
        _UNIFORM: float(np.log(np.arange(1, n + 1)).sum()) if causal else n * float(np.log(n)),
        **seen,
    }
