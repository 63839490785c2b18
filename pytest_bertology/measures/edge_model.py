"""Edge probes: a scalar mix of layers, projected and pooled spans, a classifier; several, of more and more layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from pytest_bertology.errors import NonFinite
from pytest_bertology.measures.edge_data import EdgeData, SpanStates
from pytest_bertology.measures.probing_data import HELD_OUT, TESTED, TRAIN
from pytest_bertology.tasks.items import Ints

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BATCH = 256
"""Items of an optimiser's step."""
_RATE, _MIX_RATE = 3e-3, 5e-2
"""Adam's, at first; the mixing weights are few and have far to go."""
_EVALUATIONS = 20
_PATIENCE = 5
_MEMORY = 2**27
"""Bytes that the mixed states of all probes may take at a time."""


class EdgeProbes(nn.Module):
    """Probes of the same seed that see the first 1, 2, ... layers; or one, that sees all. They share no parameter.

    `seen` are, for each probe, how many of the layers it sees; `odds` (classes,) the logits to start from. All start
    from the same random numbers.
    """

    def __init__(
        self, seen: Sequence[int], layers: int, width: int, spans: int, size: int, odds: Floats, seed: int
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        probes = len(seen)

        def drawn(fan_in: int, *shape: int) -> nn.Parameter:
            """As torch.nn.Linear starts, the same for each probe."""
            values = (2.0 * torch.rand(*shape, generator=generator, dtype=torch.float32) - 1.0) / fan_in**0.5
            return nn.Parameter(values.expand(probes, *shape).clone())

        self.mix = nn.Parameter(torch.zeros(probes, layers, dtype=torch.float32))
        self.gamma = nn.Parameter(torch.ones(probes, dtype=torch.float32))
        self.projection = nn.ParameterList([drawn(width, width, size) for _ in range(spans)])
        self.projection_bias = nn.ParameterList([drawn(width, 1, size) for _ in range(spans)])
        self.attention = nn.ParameterList([drawn(size, size, 1) for _ in range(spans)])
        self.hidden = drawn(spans * size, spans * size, size)
        self.hidden_bias = drawn(spans * size, 1, size)
        self.output = drawn(size, size, len(odds))
        # From any other bias the first steps, which all items agree on, drive hidden units into tanh's flat ends.
        self.output_bias = nn.Parameter(torch.tensor(odds, dtype=torch.float32).expand(probes, 1, -1).clone())
        self.unseen: Tensor
        self.register_buffer("unseen", torch.arange(layers) >= torch.tensor(list(seen))[:, None])

    @property
    def weights(self) -> Tensor:
        """(probes, layers) mixing weights, which add up to 1: softmax(a), 0 for layers that are not seen."""
        return self.mix.masked_fill(self.unseen, -torch.inf).softmax(dim=-1)

    def forward(self, spans: Sequence[SpanStates], items: int) -> Tensor:
        """(probes, items, classes) logits."""
        mixing = self.gamma[:, None] * self.weights
        pooled = []
        for place, span in enumerate(spans):
            layers, tokens, width = span.states.shape
            mixed = (mixing @ span.states.reshape(layers, tokens * width)).reshape(-1, tokens, width)
            projected = torch.baddbmm(self.projection_bias[place], mixed, self.projection[place])
            share = _shares(torch.bmm(projected, self.attention[place]).squeeze(-1), span.places, items)
            empty = projected.new_zeros(len(projected), items, projected.shape[-1])
            pooled.append(empty.index_add(1, span.places, projected * share[..., None]))
        hidden = torch.baddbmm(self.hidden_bias, torch.cat(pooled, dim=-1), self.hidden).tanh()
        return torch.baddbmm(self.output_bias, hidden, self.output)


def _shares(scores: Tensor, places: Tensor, items: int) -> Tensor:
    """(probes, tokens) a softmax over each item's tokens."""
    index = places.expand_as(scores)
    highest = scores.new_full((len(scores), items), -torch.inf).scatter_reduce(1, index, scores.detach(), "amax")
    raised = (scores - highest.gather(1, index)).exp()
    total = raised.new_zeros(len(scores), items).index_add(1, places, raised)
    return raised / total.gather(1, index)


@dataclass(frozen=True, eq=False)
class Judged:
    """What trained probes of one seed say of the items judged on; one after the other those of more layers."""

    weights: Floats
    """(probes, layers) mixing weights."""
    hits: Bools
    """(probes, items) whether the label's own sigmoid is above 0.5."""
    predicted: Ints
    """(probes, items) how many sigmoids are above 0.5."""
    right: Bools
    """(probes, items) whether the highest sigmoid is the label's."""
    steps: Ints
    """(probes,) after how many steps the held-out loss was lowest: those parameters are kept."""
    loss: Floats
    """(probes,) that loss, in nats for each item."""


def trained(
    data: EdgeData,
    classes: int,
    seed: int,
    *,
    cumulative: bool,
    projection: int,
    steps: int,
    device: torch.device,
    show: Callable[[int], None],
) -> Judged:
    """Train the probes of one seed, stop early on the held-out part, and judge them; `show` is told of steps done."""
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
        probes = _probes(data, classes, seed, cumulative, projection).to(device, data.dtype)
        done, losses = _fit(probes, data, seed, steps, show)
    with torch.no_grad():
        found = [_judged(probes(spans, len(items)), labels) for spans, items, labels in _batches(probes, data, TESTED)]
    hits, predicted, right = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
    return Judged(probes.weights.detach().double().cpu().numpy(), hits, predicted, right, done, losses)


def _probes(data: EdgeData, classes: int, seed: int, cumulative: bool, projection: int) -> EdgeProbes:
    count = len(data.layers)
    seen = range(1, count + 1) if cumulative else [count]
    train = data.parts[TRAIN]
    had = np.bincount(train.labels, minlength=classes) + 0.5
    odds = np.log(had / (len(train) + 1.0 - had))
    return EdgeProbes(seen, count, data.width, len(train.spans), projection, odds, seed)


def _fit(probes: EdgeProbes, data: EdgeData, seed: int, steps: int, show: Callable[[int], None]) -> tuple[Ints, Floats]:
    """Adam with a falling rate; each probe keeps the parameters of its lowest loss on the held-out part."""
    parameters = dict(probes.named_parameters())
    mixing = [parameters.pop("mix"), parameters.pop("gamma")]
    groups: list[dict[str, Any]] = [{"params": mixing, "lr": _MIX_RATE}, {"params": list(parameters.values())}]
    optimiser = torch.optim.Adam(groups, lr=_RATE, eps=1e-7)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0 - step / steps)
    every = max(1, steps // _EVALUATIONS)
    best = torch.full((len(probes.mix),), torch.inf, dtype=torch.float64)
    kept = {name: each.detach().clone() for name, each in probes.named_parameters()}
    at = torch.zeros(len(best), dtype=torch.int64)
    order = _order(len(data.parts[TRAIN]), seed)
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        items = next(order)
        for spans, part, labels in _batches(probes, data, TRAIN, items):
            (_losses(probes(spans, len(part)), labels).sum() / len(items)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == steps:
            losses = _held_out_loss(probes, data, step)
            better = losses < best
            best, at = torch.where(better, losses, best), torch.where(better, step, at)
            for name, each in probes.named_parameters():
                kept[name][better] = each.detach()[better]
            if step - int(at.max()) >= _PATIENCE * every:
                break
        show(step)
    with torch.no_grad():
        for name, each in probes.named_parameters():
            each.copy_(kept[name])
    return at.numpy(), best.numpy()


def _order(count: int, seed: int) -> Any:
    """Items of step after step: all of them in random order, then again in another."""
    draw = np.random.default_rng(seed)
    size = min(BATCH, count)
    left = np.zeros(0, dtype=np.int64)
    while True:
        if len(left) < size:
            left = np.concatenate([left, draw.permutation(count)])
        yield left[:size]
        left = left[size:]


def _batches(probes: EdgeProbes, data: EdgeData, part: str, items: Ints | None = None) -> Any:
    """States, items and labels of a part, as many at a time as memory allows."""
    device = probes.mix.device
    wide = len(probes.mix) * data.width * probes.mix.element_size()
    items = np.arange(len(data.parts[part])) if items is None else items
    for chunk in data.chunks(part, items, max(1, _MEMORY // wide)):
        labels = torch.from_numpy(data.parts[part].labels[chunk]).to(device)
        yield data.read(part, chunk, device), chunk, labels


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(probes,) summed binary cross entropies of all labels, a sigmoid each."""
    truth = functional.one_hot(labels, logits.shape[-1] + 1)[:, :-1].to(logits.dtype).expand_as(logits)
    return functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(dim=(1, 2))


@torch.no_grad()
def _held_out_loss(probes: EdgeProbes, data: EdgeData, step: int) -> Tensor:
    total = torch.zeros(len(probes.mix), dtype=torch.float64)
    for spans, items, labels in _batches(probes, data, HELD_OUT):
        total += _losses(probes(spans, len(items)), labels).double().cpu()
    if not bool(torch.isfinite(total).all()):
        raise NonFinite("the loss of an edge probe", f"step {step} of its training")
    return total / len(data.parts[HELD_OUT])


def _judged(logits: Tensor, labels: Tensor) -> tuple[Bools, Ints, Bools]:
    """(probes, items) each: whether the label is predicted, how many are, and whether it is the likeliest."""
    positive = functional.pad(logits > 0.0, (0, 1))  # a label that was not trained on is never predicted
    hits = positive.gather(2, labels[None, :, None].expand(len(logits), -1, 1)).squeeze(-1)
    return hits.cpu().numpy(), positive.sum(dim=-1).cpu().numpy(), (logits.argmax(dim=-1) == labels).cpu().numpy()
