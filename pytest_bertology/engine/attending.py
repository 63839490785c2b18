"""What each head attends to, text by text: the attention weights of a model as it runs, never all at once.

The model runs as it is (SDPA, say); weights are computed again from query and key inside each attention call, compared
with the contexts that the model's own attention gave, shown to a visitor, and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch, Batching, batches
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.texts import Texts, real_tokens
from pytest_bertology.errors import CannotMeasure, NonFinite
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.attention import Call, Key
from pytest_bertology.models.attention_weights import (
    AttentionCall,
    of_function,
    seeing_attention,
    softmax_scores,
    softmax_weights,
)
from pytest_bertology.models.sampling import accepts
from pytest_bertology.models.sites import Site

_AT_ONCE = 2**22
"""Attention weights that are shown at a time, of one layer: 16 MiB of them in float32."""
_LEAK = {torch.float64: 1e-9, torch.float32: 1e-5}
"""How much of a token's attention may go to padding, by rounding."""
_STACKS = (None, "encoder", "decoder", "cross")


@dataclass(frozen=True, eq=False)
class Attended:
    """The attention weights of heads of one layer, on some texts of a batch."""

    site: int
    """Which of `model.sites`."""
    heads: slice
    """Which of `model.heads`, by position."""
    run: int
    """0; or, where a layer runs several times in one pass (ALBERT's), which time it is."""
    positions: tuple[int, ...]
    """Which texts."""
    real: Tensor
    """(texts, tokens), False for padding."""
    weights: Tensor
    """(texts, heads, queries, keys), 0 for padding among queries and keys."""
    scores: Tensor | None
    """The same before the softmax, 0 for padding and what is masked; None unless asked for."""

    def each(self) -> Iterator[tuple[int, Tensor]]:
        """Text by text: its position, and its weights (heads, tokens, tokens) without padding."""
        for row, position in enumerate(self.positions):
            at = self.real[row].nonzero()[:, 0]
            span = slice(int(at[0]), int(at[-1]) + 1)
            yield position, self.weights[row, :, span, span]

    def each_scores(self) -> Iterator[tuple[int, Tensor]]:
        """Text by text: its position, and its scores (heads, tokens, tokens) without padding."""
        assert self.scores is not None
        for row, position in enumerate(self.positions):
            at = self.real[row].nonzero()[:, 0]
            span = slice(int(at[0]), int(at[-1]) + 1)
            yield position, self.scores[row, :, span, span]


Visit = Callable[[Attended], None]


def attend(
    model: ModelUnderTest,
    texts: Texts,
    visit: Visit,
    *,
    what: str,
    batching: Batching | None = None,
    sites: Collection[int] | None = None,
    scores: bool = False,
) -> None:
    """Run the model over texts, under the masks in force, and show `visit` what each layer's heads attend to.

    A layer's weights on a batch may be shown in several parts: other texts of it, or other heads. `what` is measured,
    for messages; `sites` are the layers asked for, by their places in `model.sites` (None: all). Encoder-decoder models
    read each text on both sides, so that queries and keys are the same tokens in their cross-attention too.

    Raises CannotMeasure where weights are not seen, are not those that gave the model's contexts, or are of other than
    the texts' tokens; NonFinite, naming the text.
    """
    batching = batching or Batching()
    check_attention(model, what)
    done = 0
    with torch.inference_mode(), model.frozen(), tracked(f"{texts.name}, {what}", len(texts)) as show:
        for batch in batches(model, texts.encoded, batching):
            real = real_tokens(texts.encoded, batch, batching)
            attend_batch(model, texts, batch, real, visit, what=what, sites=sites, scores=scores)
            done += len(batch.positions)
            show(done)


def attend_batch(
    model: ModelUnderTest,
    texts: Texts,
    batch: Batch,
    real: Tensor,
    visit: Visit,
    *,
    what: str,
    sites: Collection[int] | None = None,
    scores: bool = False,
) -> None:
    """`attend` on one batch, for measures that need two models side by side, or a batch more than once.

    To be called in inference mode, with the model frozen, after `check_attention`; `real` is `real_tokens`.
    """
    if scores and model.attention_changed():
        reason = "its attention is changed, and what a softmax is given is no longer what its weights are made of"
        raise CannotMeasure(what, type(model.model).__name__, reason)
    wanted = frozenset(range(len(model.sites)) if sites is None else sites)
    functions = any(key.via == "function" for site in model.sites for key in site.taps)
    seen = _Seen(model, texts, batch, real, what, visit, wanted, scores)
    with seeing_attention(model.model, seen.interface, seen.function if functions else None):
        model.model(**reading_inputs(model, batch))
    seen.check_complete()


def check_attention(model: ModelUnderTest, what: str) -> None:
    """Raise CannotMeasure for a model whose attention over texts is not seen."""
    for site in model.sites:
        if site.stack not in _STACKS:
            reason = (
                f"it has a {site.stack} tower, which texts alone do not run: load it for texts, with "
                "load_model(..., sample=tokenizer('A text.', return_tensors='pt'))"
            )
            raise CannotMeasure(what, type(model.model).__name__, reason)
        if not site.taps:
            reason = f"{site.attention} computes its weights where they are not seen"
            raise CannotMeasure(what, type(model.model).__name__, reason)
    if not accepts(model.model, "input_ids"):
        raise CannotMeasure(what, type(model.model).__name__, f"it reads {model.model.main_input_name}, and no texts")


def reading_inputs(model: ModelUnderTest, batch: Batch) -> dict[str, Tensor | int]:
    """Keyword arguments of a pass that reads the texts of a batch, and whose logits no one needs."""
    inputs: dict[str, Tensor | int] = dict(batch.inputs)
    if getattr(model.model.config, "is_encoder_decoder", False) and accepts(model.model, "decoder_input_ids"):
        inputs["decoder_input_ids"] = batch.inputs["input_ids"]
        if "attention_mask" in inputs and accepts(model.model, "decoder_attention_mask"):
            inputs["decoder_attention_mask"] = batch.inputs["attention_mask"]
    if accepts(model.model, "logits_to_keep"):
        inputs["logits_to_keep"] = 1
    return inputs


class _Seen:
    """What the attention calls of one forward pass show, site by site."""

    def __init__(
        self,
        model: ModelUnderTest,
        texts: Texts,
        batch: Batch,
        real: Tensor,
        what: str,
        visit: Visit,
        wanted: frozenset[int],
        scores: bool,
    ) -> None:
        self._model, self._texts, self._batch, self._real = model, texts, batch, real
        self._what, self._visit, self._wanted, self._scores = what, visit, wanted, scores
        self._sites: dict[Key, int] = {key: index for index, site in enumerate(model.sites) for key in site.taps}
        self._runs = dict.fromkeys(range(len(model.sites)), 0)
        self._padded = not bool(real.all())
        self._starts = [0]
        for site in model.sites:
            self._starts.append(self._starts[-1] + site.heads)

    def interface(self, call: AttentionCall) -> None:
        """Show a call of the attention interface."""
        self._show_call(Key("interface", call.number), call)

    def function(self, call: Call) -> None:
        """Show a softmax, or a call of torch's attention, that the model makes itself."""
        own = of_function(call)
        if own is not None:
            self._show_call(call.key, own)
            return
        index = self._taken(call.key)
        if index is None:
            return
        site = self._model.sites[index]
        heads = site.computed or site.heads
        weights = self._had(site, softmax_weights(call, site.taps[call.key], heads, self._real))
        scores = self._had(site, softmax_scores(call, site.taps[call.key], heads)) if self._scores else None
        self._show(index, slice(0, heads), slice(0, len(self._real)), weights, scores)

    def check_complete(self) -> None:
        """Raise CannotMeasure where a site's attention was not seen."""
        for index in self._sites.values():
            raise self._cannot(self._model.sites[index], "it was not called as when the model was loaded")

    def _show_call(self, key: Key, call: AttentionCall) -> None:
        index = self._taken(key)
        if index is None:
            return
        site = self._model.sites[index]
        rows, length = self._real.shape
        if call.query.shape[0] != rows or call.query.shape[2] != length or call.key.shape[2] != length:
            raise self._cannot(site, "it attends to something else than the tokens of the text, each to all")
        self._refuse_non_finite(call.context.flatten(2))
        for part, heads in _parts(rows, call.query.shape[1], length):
            real = self._real[part]
            own = call if (part.stop - part.start, heads.stop - heads.start) == call.query.shape[:2] else None
            own = call.part(part, heads) if own is None else own
            weights = self._had(site, own.weights(real))
            scores = self._had(site, own.scores(weights, real)) if self._scores else None
            self._show(index, heads, part, weights, scores)

    def _taken(self, key: Key) -> int | None:
        """The site that a call belongs to; None for other attention, and for layers that are not asked for."""
        index = self._sites.pop(key, None)
        if index is None:
            return None  # attention that feeds no gated head
        self._runs[index] += 1
        return index if index in self._wanted else None

    def _show(self, index: int, heads: slice, rows: slice, weights: Tensor, scores: Tensor | None) -> None:
        site, real = self._model.sites[index], self._real[rows]
        computed = site.computed or site.heads
        if weights.shape[1:] != (heads.stop - heads.start, real.shape[1], real.shape[1]) or heads.stop > computed:
            raise self._cannot(site, f"its weights are of the shape {tuple(weights.shape)}, and not as when loaded")
        if self._padded:
            leaked = (weights * (real[:, None, :, None] & ~real[:, None, None, :])).sum(dim=-1)
            if bool((leaked.nan_to_num() > _LEAK.get(weights.dtype, 1e-2)).any()):
                raise self._cannot(site, "it attends to padding; with Batching(tokens=1) each text is read alone")
            padding = ~(real[:, None, :, None] & real[:, None, None, :])
            weights = weights.masked_fill(padding, 0.0)
            scores = None if scores is None else scores.masked_fill(padding, 0.0)
        if weights.dtype in (torch.float16, torch.bfloat16):
            weights = weights.float()
        self._refuse_non_finite(weights.sum(dim=-1).transpose(1, 2), rows)
        start = self._starts[index]
        at = slice(start + heads.start, start + heads.stop)
        if site.slots:  # a cut model's heads that have weights still
            kept = [slot for slot in site.slots if heads.start <= slot < heads.stop]
            chosen = torch.tensor([slot - heads.start for slot in kept], device=weights.device, dtype=torch.long)
            weights = weights.index_select(1, chosen)
            scores = None if scores is None else scores.index_select(1, chosen)
            first = sum(slot < heads.start for slot in site.slots)
            at = slice(start + first, start + first + len(kept))
        positions = self._batch.positions[rows]
        self._visit(Attended(index, at, self._runs[index] - 1, positions, real, weights, scores))

    def _refuse_non_finite(self, values: Tensor, rows: slice = slice(None)) -> None:
        """Raise NonFinite for (texts, tokens, numbers) with one that is not, on a real token."""
        wrong = ~torch.isfinite(values).all(dim=-1) & self._real[rows]
        if bool(wrong.any()):
            at = self._batch.positions[rows][int(wrong.nonzero()[0, 0])]
            raise NonFinite("what attention gives", f"example {at} of {self._texts.name}")

    def _had(self, site: Site, found: Tensor | str) -> Tensor:
        if isinstance(found, str):
            raise self._cannot(site, found)
        return found

    def _cannot(self, site: Site, reason: str) -> CannotMeasure:
        return CannotMeasure(self._what, type(self._model.model).__name__, f"at {site.attention}: {reason}")


def _parts(rows: int, heads: int, length: int) -> Iterator[tuple[slice, slice]]:
    """Texts, and heads where a single text has too many weights, that are shown at a time."""
    per_head = length * length
    some_rows = max(1, _AT_ONCE // (per_head * heads))
    some_heads = heads if some_rows > 1 or per_head * heads <= _AT_ONCE else max(1, _AT_ONCE // per_head)
    for row in range(0, rows, some_rows):
        for head in range(0, heads, some_heads):
            yield slice(row, min(row + some_rows, rows)), slice(head, min(head + some_heads, heads))
