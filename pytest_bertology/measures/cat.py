"""CAT-probing: does a model of code attend along the syntax tree?"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_bertology.engine.attending import Attended, attend
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.texts import Texts, read_texts
from pytest_bertology.errors import BertologyWarning, CannotMeasure, InvalidArgument, UndefinedScore
from pytest_bertology.heads import Head, HeadLike, HeadMap, HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model
from pytest_bertology.measures.cat_formula import bootstrap_interval, cat_scores, neighbour_attention, random_attention
from pytest_bertology.measures.cat_snippets import Aligned, Parsed, align, chosen_types, parse
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.models import ModelUnderTest

_DRAWS = 10
_CONFIDENCE = 0.95
_EXACT = 1e-12
"""Weights in float64 that are nearer to each other than this, relative, are equal."""
_ROUNDED = 1e-6
"""The same for weights in float32."""


@dataclass(frozen=True)
class RandomAttention:
    """The CAT-score of attention that looks anywhere, over the same tokens of the same snippets."""

    score: float
    scores: tuple[float | None, ...]
    """Snippet by snippet, the mean of all draws; None where the model has none."""
    draws: int
    difference: float
    """The model's score less this one."""
    interval: tuple[float, float] | None
    """The difference's, by a paired bootstrap over snippets (95 %); None for a single snippet."""

    @property
    def below(self) -> bool:
        """Whether the model is above random attention, beyond chance."""
        return self.interval is not None and self.interval[0] > 0.0


@dataclass(frozen=True, eq=False, repr=False)
class CatReport:
    """How far a model attends along the syntax tree of code."""

    score: float
    """The mean over snippets, from 0 to 1."""
    scores: tuple[float | None, ...]
    """Of each snippet, the mean over layers; None where there is none."""
    interval: tuple[float, float] | None
    """The score's, by a bootstrap over snippets (95 %); None for a single snippet."""
    by_layer: Mapping[int, float]
    """The score of each layer asked for."""
    head_scores: Mapping[Head, float]
    """The score of each head of those layers, alone."""
    control: RandomAttention
    neighbours: float
    """The score of attention that goes by distance in the text alone, and knows no syntax; NaN where it has none."""
    neighbours_difference: float
    """The model's score less that one."""
    neighbours_interval: tuple[float, float] | None
    """The difference's, by a paired bootstrap over snippets (95 %); None for fewer than two snippets."""
    token_types: tuple[str, ...]
    """The types of tokens that took part."""
    type_counts: Mapping[str, int]
    """How many tokens of each type the snippets have, of all types."""
    tokens: int
    """How many tokens took part."""
    unseen: int
    """Tokens that the model does not read, mostly because a snippet was cut; they took no part."""
    unreadable: tuple[int, ...]
    """Snippets that could not be parsed (errors="skip")."""
    repeated: tuple[int, ...]
    """Snippets that are the same as an earlier one: they have its score, and count no second time."""
    model: str
    language: str
    _heads: HeadMap = field(repr=False)

    def __repr__(self) -> str:
        found = f"{self.score:.4f} on {self.scored} snippets of {self.language}"
        return f"CatReport({found}; random attention {self.control.score:.4f})"

    @property
    def scored(self) -> int:
        """How many snippets have a score, equal ones counted once."""
        return len(self.scores) - len({*self.skipped, *self.repeated})

    @property
    def above_neighbours(self) -> bool:
        """Whether the model is above attention by distance in the text alone, beyond chance."""
        return self.neighbours_interval is not None and self.neighbours_interval[0] > 0.0

    @property
    def conclusion(self) -> str:
        """What the score says beside that of attention by distance alone, in a sentence."""
        alone = f"attention by distance alone scores {self.neighbours:.4f}"
        if np.isnan(self.neighbours):
            return "attention by distance alone has no score here: nothing says whether there is more than order"
        if self.above_neighbours:
            return f"{alone}: this model is above it, and so shows more than the order of tokens"
        return f"{alone}: nothing here shows more than the order of tokens"

    @property
    def skipped(self) -> tuple[int, ...]:
        """Snippets without a score: not parsed, or without a pair that is near or highly attended to."""
        return tuple(index for index, score in enumerate(self.scores) if score is None)

    @property
    def by_head(self) -> HeadScores:
        """The score of every head alone; raises InvalidArgument where not all heads were measured (layer="all")."""
        if len(self.head_scores) < len(self._heads):
            found = f"{len(self.head_scores)} of {len(self._heads)} heads have a score"
            raise InvalidArgument("layer", found, "layer='all' for scores of all; head_scores has those there are")
        return HeadScores(np.array([self.head_scores[head] for head in self._heads]), self._heads, "CAT")

    def table(self) -> str:
        """The score, random attention's, layers, the best heads and the token types, as plain text."""
        best = sorted(self.head_scores, key=lambda head: -self.head_scores[head])[:5]
        counts = ", ".join(f"{kind!r} {self.type_counts[kind]}" for kind in self.token_types)
        rows = {
            "model": self.model,
            "snippets": f"{self.scored} of {self.language}{self._left_out()}",
            "CAT-score": f"{self.score:.4f}{between(self.interval)}",
            "random": f"{self.control.score:.4f}, mean of {self.control.draws} draws",
            "difference": f"{self.control.difference:+.4f}{between(self.control.interval, '+')}",
            "neighbours": f"{self.neighbours:.4f}; difference {self.neighbours_difference:+.4f}"
            f"{between(self.neighbours_interval, '+')}",
            "so": self.conclusion,
            "layers": ", ".join(f"{layer}: {score:.4f}" for layer, score in self.by_layer.items()),
            "best heads": ", ".join(f"{head} {self.head_scores[head]:.4f}" for head in best),
            "tokens": f"{self.tokens} of the types {counts}",
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())

    def _left_out(self) -> str:
        found = []
        if self.unreadable:
            found.append(f"{len(self.unreadable)} not parsed")
        if len(self.skipped) > len(self.unreadable):
            found.append(f"{len(self.skipped) - len(self.unreadable)} without a score")
        if self.repeated:
            found.append(f"{len(self.repeated)} repeated, counted once")
        if self.unseen:
            found.append(f"{self.unseen} tokens not read by the model")
        return f" ({', '.join(found)})" if found else ""


@remakeable
def cat_score(
    model: ModelUnderTest,
    snippets: Iterable[str],
    language: str = "python",
    *,
    layer: int | Iterable[int] | str = -1,
    stack: str | None = None,
    heads: Iterable[HeadLike] | None = None,
    attention_quantile: float = 0.75,
    distance_quantile: float = 0.25,
    token_types: str | Iterable[str] | None = None,
    errors: str = "raise",
    seed: int = 0,
    batching: Batching | None = None,
) -> CatReport:
    """How far pairs of tokens that attend to each other are those that are near in the syntax tree.

    CAT-probing (Chen et al. 2022, section 3). Of each snippet: A, the attention between its tokens, a mean over pairs
    of their sub-tokens and over heads; D, the edges between them in the syntax tree, in which neighbours are joined,
    and each use of an identifier with its next. `M_A = A > quantile(A, .75)`, `M_D = D < quantile(D, .25)`, and
    CAT = |M_A ∧ M_D| / |M_A ∨ M_D|, from 0 to 1; snippets where both are empty are skipped. All pairs of tokens that
    take part count, a token with itself too, as in the authors' code.

    Tokens of the 8 most frequent types take part, or of `token_types`; types are counted over all the snippets, so
    that models, layers and heads are compared on the same tokens (the authors took, for each language, types to which
    several models attend most). Paths may lead over tokens that take no part; comments are none. A sub-token that
    stands for characters of several tokens, such as `):`, is part of each; tokens that the model does not read to
    their end, the snippet being cut, take no part.

    `layer` is one attention layer (-1: the last), several, or "all": the score of several is the mean of theirs.
    `stack` says of which stack in encoder-decoder models; None: the encoder. A layer that runs several times counts as
    it runs last. `heads` are averaged (None: all of a layer). `errors="skip"` leaves out snippets that do not parse.

    Equal snippets count once, as if given once, in scores, intervals and types; a BertologyWarning says how many.

    `control` has the same for random attention, each row drawn with `seed` from all that add up to 1 (up to the
    diagonal for causal attention), and `neighbours` for attention that falls off with distance in the text. The latter
    scores high, since neighbours are near in the tree: only a model above it (`above_neighbours`) is seen to know more
    than the order of tokens.

    Raises InvalidArgument; NothingToJudge for no snippets; MalformedData, naming the snippet and line, for code that
    does not parse; MissingExtra without the grammar of a language; NoTokenizer; CannotMeasure where the tokenizer does
    not tell its tokens' characters, or as `attend` does; UndefinedScore where every snippet is skipped.
    """
    check_model(model)
    check_has_heads(model)
    _check_quantiles(attention_quantile=attention_quantile, distance_quantile=distance_quantile)
    if not is_whole(seed) or seed < 0:
        raise InvalidArgument("seed", seed, "a whole number from 0")
    chosen = _chosen(model, layer, stack, heads)
    parsed = parse(snippets, language, errors)
    if parsed.repeats:
        share = f"{len(parsed.repeats)} of {parsed.given} snippets"
        warnings.warn(
            f"{share} are repeated: equal snippets count once in the CAT-score", BertologyWarning, stacklevel=2
        )
    types = chosen_types(token_types, parsed.counts())
    texts = read_texts(model, parsed.texts, argument="snippets")
    if texts.offsets is None:
        reason = "its tokenizer does not tell which characters its tokens stand for: load a fast one"
        raise CannotMeasure("the CAT-score", type(model.model).__name__, reason)
    aligned = align(parsed, texts, types, distance_quantile)

    def looked() -> _Seen:
        seen = _Seen(model, texts, aligned, chosen, attention_quantile, seed)
        attend(model, texts, seen, what="CAT-score", batching=batching, sites=list(chosen))
        return seen

    return _report(model, language, parsed, types, aligned, within_memory("the CAT-score", model, looked))


def _check_quantiles(**quantiles: float) -> None:
    for name, value in quantiles.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1.0:
            raise InvalidArgument(name, value, "a number between 0 and 1, such as 0.75")


def _chosen(
    model: ModelUnderTest, layer: Any, stack: str | None, heads: Iterable[HeadLike] | None
) -> dict[int, tuple[int, ...]]:
    """The sites asked for, and of each the positions in `model.heads` of the heads to average."""
    stacks = list(dict.fromkeys(site.stack for site in model.sites))
    own = stack if stack is not None else "encoder" if "encoder" in stacks else stacks[0]
    if own not in stacks:
        raise InvalidArgument("stack", stack, f"one of {', '.join(map(repr, stacks))}")
    sites = [index for index, site in enumerate(model.sites) if site.stack == own]
    starts = np.cumsum([0, *(site.heads for site in model.sites)])
    numbers: list[Any] = [layer] if not isinstance(layer, Iterable) else list(layer)
    if isinstance(layer, str) and layer == "all":
        numbers = list(range(len(sites)))
    expected = f"a layer from {-len(sites)} to {len(sites) - 1}, several, or 'all'"
    if not numbers or not all(is_whole(number) and -len(sites) <= number < len(sites) for number in numbers):
        raise InvalidArgument("layer", layer, expected)
    asked = sorted({sites[number] for number in numbers})
    chosen = {site: tuple(range(starts[site], starts[site + 1])) for site in asked if model.sites[site].heads}
    if heads is not None:
        named = {model.heads.index(head) for head in model.heads.select(heads)}
        chosen = {site: tuple(at for at in own_heads if at in named) for site, own_heads in chosen.items()}
        if sum(map(len, chosen.values())) < len(named) or not all(chosen.values()):
            have = ", ".join(str(model.heads[at]) for at in sorted(named)) or "none"
            raise InvalidArgument("heads", have, f"heads of each layer asked for, and of no other: layer={layer!r}")
    if not chosen or (layer != "all" and len(chosen) < len(asked)):
        raise InvalidArgument("layer", layer, "layers with heads left")
    return chosen


class _Seen:
    """Scores each snippet as the attention of its layers is shown."""

    def __init__(
        self,
        model: ModelUnderTest,
        texts: Texts,
        aligned: Sequence[Aligned],
        chosen: Mapping[int, tuple[int, ...]],
        quantile: float,
        seed: int,
    ) -> None:
        self._model, self._texts, self._aligned, self._chosen = model, texts, aligned, chosen
        self._quantile, self.seed = quantile, seed
        self.layers = {site: np.full(len(aligned), np.nan) for site in chosen}
        self.heads = {at: np.full(len(aligned), np.nan) for heads in chosen.values() for at in heads}
        self.control = np.full(len(aligned), np.nan)
        self.neighbours = np.full(len(aligned), np.nan)
        self._compared: set[int] = set()
        self._sums: dict[tuple[int, int], tuple[Any, int]] = {}

    def __call__(self, attended: Attended) -> None:
        """Add what some heads of a layer attend to."""
        if attended.run < len(self._model.sites[attended.site].taps) - 1:
            return  # a shared layer, which will run again
        positions = range(attended.heads.start, attended.heads.stop)
        wanted = [slot for slot, at in enumerate(positions) if at in self.heads]
        if not wanted:
            return
        rounding = _EXACT if attended.weights.dtype == torch.float64 else _ROUNDED
        for position, weights in attended.each():
            snippet = self._aligned[position]
            if not snippet.count:
                continue
            own = weights[wanted].to("cpu", torch.float64)
            means, near = snippet.means(own.shape[-1]), snippet.near
            attention = (means @ own @ means.T).numpy()
            for slot, score in zip(wanted, cat_scores(attention, near, self._quantile, rounding), strict=True):
                self.heads[positions[slot]][position] = score
            self._add(attended.site, position, attention, near, rounding)
            if position not in self._compared:
                self._compared.add(position)
                self._compare(position, own, means.numpy(), near)

    def _add(self, site: int, position: int, attention: Any, near: Any, rounding: float) -> None:
        """Score the mean over heads once all have been seen."""
        total, count = self._sums.pop((site, position), (0.0, 0))
        total, count = total + attention.sum(axis=0), count + len(attention)
        if count < len(self._chosen[site]):
            self._sums[site, position] = (total, count)
            return
        self.layers[site][position] = cat_scores(total[None] / count, near, self._quantile, rounding)[0]

    def _compare(self, position: int, weights: Tensor, means: Any, near: Any) -> None:
        """Score random attention, and attention to neighbours, on the same tokens."""
        tokens = weights.shape[-1]
        causal = tokens > 1 and not bool(weights.triu(1).any())
        text = self._texts.texts[position]
        assert isinstance(text, str)
        drawn = random_attention(tokens, causal, text, _DRAWS, self.seed)
        others = np.stack([means @ matrix @ means.T for matrix in (neighbour_attention(tokens, causal), *drawn)])
        scores = cat_scores(others, near, self._quantile, _EXACT)
        self.neighbours[position], self.control[position] = scores[0], scores[1:].mean()


def _report(
    model: ModelUnderTest,
    language: str,
    parsed: Parsed,
    types: tuple[str, ...],
    aligned: Sequence[Aligned],
    seen: _Seen,
) -> CatReport:
    layers = np.stack(list(seen.layers.values()))
    scores = layers.mean(axis=0)
    there = ~np.isnan(scores)
    if not there.any():
        what = f"in {len(scores)} snippets no pair of tokens of the types {', '.join(map(repr, types))}"
        raise UndefinedScore("the CAT-score", f"{what} is near, or attended to more than others")
    control = np.where(there, seen.control, np.nan)
    differences = (scores - control)[there]
    beside = there & ~np.isnan(seen.neighbours)
    beyond = (scores - seen.neighbours)[beside]
    random = RandomAttention(
        score=float(control[there].mean()),
        scores=_spread(control, parsed),
        draws=_DRAWS,
        difference=float(differences.mean()),
        interval=bootstrap_interval(differences, _CONFIDENCE, seen.seed),
    )
    return CatReport(
        score=float(scores[there].mean()),
        scores=_spread(scores, parsed),
        interval=bootstrap_interval(scores[there], _CONFIDENCE, seen.seed),
        by_layer={model.sites[site].layer: float(found[there].mean()) for site, found in seen.layers.items()},
        head_scores={
            model.heads[at]: float(np.nanmean(found)) for at, found in seen.heads.items() if not np.isnan(found).all()
        },
        control=random,
        neighbours=float(seen.neighbours[beside].mean()) if beside.any() else float("nan"),
        neighbours_difference=float(beyond.mean()) if beside.any() else float("nan"),
        neighbours_interval=bootstrap_interval(beyond, _CONFIDENCE, seen.seed),
        token_types=types,
        type_counts=parsed.counts(),
        tokens=sum(snippet.count for snippet in aligned),
        unseen=sum(snippet.unseen for snippet in aligned),
        unreadable=parsed.unreadable,
        repeated=tuple(parsed.repeats),
        model=model.name,
        language=language,
        _heads=model.heads,
    )


def _spread(values: Any, parsed: Parsed) -> tuple[float | None, ...]:
    """Values at the places of the snippets given, equal ones the same; None elsewhere, and for NaN."""
    found: list[float | None] = [None] * parsed.given
    for position, value in zip(parsed.positions, values, strict=True):
        found[position] = None if np.isnan(value) else float(value)
    for position, first in parsed.repeats.items():
        found[position] = found[first]
    return tuple(found)


def between(interval: tuple[float, float] | None, sign: str = "") -> str:
    """` (95 % interval … to …)`; nothing where there is none."""
    return "" if interval is None else f" (95 % interval {interval[0]:{sign}.4f} to {interval[1]:{sign}.4f})"
