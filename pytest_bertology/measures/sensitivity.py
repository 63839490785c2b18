"""How sensitive an example's loss is to each head's gate: gradients, an example at a time though in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batch, Batching, batches
from pytest_bertology.engine.encoding import Encoded, encode, lengths
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.slopes import Shortened
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.errors import CannotMeasure, MaskNotApplied, NonFinite
from pytest_bertology.heads import HeadScores
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.shares import by_row
from pytest_bertology.models.sites import Site
from pytest_bertology.tasks.task import Task


@dataclass(frozen=True)
class Work:
    """A model at a task, to be differentiated batch by batch."""

    model: ModelUnderTest
    task: Task
    encoded: Encoded
    batching: Batching
    passes: Shortened

    @classmethod
    def of(cls, model: ModelUnderTest, task: Task, batching: Batching | None) -> Work:
        """The task encoded for the model; one example at a time where a batch cannot have gates for each."""
        batching = batching or Batching()
        if not model.check.per_example:
            batching = replace(batching, tokens=1)
        encoded = encode(model, task)
        return cls(model, task, encoded, batching, Shortened(model, encoded))

    def once(self, what: str, each: Callable[[Batch], Mapping[str, Tensor]]) -> Arrays:
        """Sums over all examples of what `each` gives for a batch, (batch, …); from the store if it has them.

        `what` names all that the sums depend on besides the model, the data, the masks in force and the batching. Sums
        of squares come with them, under the same names with "²".
        """
        inputs = (self.model, self.encoded, self.model.mask_in_force(), self.batching)
        return computed_once(f"{what}, and squares", inputs, lambda: self._sums(each))

    def mean(self, sums: Arrays, name: str, method: str, *, sign: float = 1.0, per: float | None = None) -> HeadScores:
        """A sum as the mean over examples, with standard errors; `per` is what it is divided by, if not examples."""
        n = len(self.task)
        scale = n if per is None else per
        spread = np.maximum(sums[f"{name}²"] - sums[name] ** 2 / n, 0.0)  # Σ (x − mean)²
        errors = np.sqrt(spread * n / (n - 1)) / scale if n > 1 else None
        return HeadScores(sign * sums[name] / scale, self.model.heads, method, standard_errors=errors)

    def _sums(self, each: Callable[[Batch], Mapping[str, Tensor]]) -> Arrays:
        sums: dict[str, npt.NDArray[np.float64]] = {}
        done, title = 0, f"{self.task.name}, head importance"
        # Gradients are needed here, whatever the caller has switched off around the call.
        with torch.inference_mode(False), torch.enable_grad(), self.model.frozen():
            with tracked(title, len(self.task)) as show:
                for batch in batches(self.model, self.encoded, self.batching):
                    for name, values in each(batch).items():
                        found = values.double()
                        for what, summed in ((name, found), (f"{name}²", found.square())):
                            sums[what] = np.asarray(sums.get(what, 0.0) + summed.sum(dim=0).cpu().numpy())
                    done += len(batch.positions)
                    show(done)
        return sums

    def slopes(self, batch: Batch, opened: float = 1.0) -> Tensor:
        """(batch, heads) ∂ loss / ∂ gate of each example, every example having gates of its own, all at `opened`.

        The gates come on top of the masks in force: a head half masked has half of a gate to give.
        """
        gates = [self._gates(site, (len(batch.positions), site.heads), opened) for site in self.model.sites]
        with self.model.gated(gates), self._received():
            found = torch.autograd.grad(self.losses(batch).sum(), gates, allow_unused=True)
        slopes: list[Tensor] = []
        for site, gate, slope in zip(self.model.sites, gates, found, strict=True):
            slopes.append(self._finite(torch.zeros_like(gate) if self._unread(site, slope) else slope, batch))
        return _together(slopes)

    def slopes_of_tokens(self, batch: Batch) -> Tensor:
        """(batch, heads) Σ over tokens of |context · ∂ loss / ∂ context|, the context a head's slice of what its
        projection receives.

        Nothing that is judged reads a padded token, so that its gradient is zero and it adds nothing.
        """
        sites = self.model.sites
        gates = [self._gates(site, (site.heads,), 1.0) for site in sites]  # so that contexts are worth a gradient
        with self.model.gated(gates), self._received(keep=True) as received:
            losses = self.losses(batch)
            flat = [context for contexts in received for context in contexts]
            found = iter(torch.autograd.grad(losses.sum(), flat, allow_unused=True))
        slopes = []
        for site, contexts in zip(sites, received, strict=True):
            total = losses.new_zeros(len(batch.positions), site.heads)
            gradients = [next(found) for _ in contexts]
            if self._unread(site, next((gradient for gradient in gradients if gradient is not None), None)):
                gradients = []
            for context, gradient in zip(contexts, gradients, strict=bool(gradients)):
                if gradient is not None:
                    total = total + _per_head(site, context.detach() * gradient, len(batch.positions))
            slopes.append(self._finite(total, batch))
        return _together(slopes)

    def losses(self, batch: Batch) -> Tensor:
        """(batch,) losses; raises NonFinite naming the example."""
        losses = self.passes.judge(batch).losses
        _refuse_non_finite(losses, batch, self.task, "the loss")
        return losses

    @contextmanager
    def _received(self, keep: bool = False) -> Iterator[list[list[Tensor]]]:
        """With `keep`, what each site's projection receives, call by call, behind the gates that are in force now.

        Raises CannotMeasure where the model runs a site without gradients: its slopes would be of other calls alone.
        """
        received: list[list[Tensor]] = [[] for _ in self.model.sites]
        with ExitStack() as stack:
            for index, site in enumerate(self.model.sites):

                def note(module: Any, args: Any, kwargs: Any, index: int = index, site: Site = site) -> None:
                    context = site.context(args, kwargs)
                    if not context.requires_grad:
                        reason = f"at {site.name} the model runs it without gradients"
                        raise CannotMeasure("the slope of the loss", type(self.model.model).__name__, reason)
                    if keep:
                        received[index].append(context)

                stack.callback(site.projection.register_forward_pre_hook(note, with_kwargs=True).remove)
            yield received

    def _gates(self, site: Site, shape: tuple[int, ...], opened: float) -> Tensor:
        dtype = torch.float64 if self.model.model.dtype == torch.float64 else torch.float32
        return torch.full(shape, opened, dtype=dtype, device=self.model.device, requires_grad=True)

    def _finite(self, slopes: Tensor, batch: Batch) -> Tensor:
        _refuse_non_finite(slopes.sum(dim=1), batch, self.task, "the gradient of a head's gate")
        return slopes.double()

    def _unread(self, site: Site, gradient: Tensor | None) -> bool:
        """Whether the loss does not depend on gates: right where the model reads none of their heads, else an error."""
        if gradient is not None:
            return False
        idle = self.model.check.idle
        if any((head.layer, head.stack) == (site.layer, site.stack) for head in set(self.model.heads) - set(idle)):
            raise MaskNotApplied(f"the loss does not depend on the gates at {site.name}")
        return True


def gradient_importance(model: ModelUnderTest, task: Task, *, batching: Batching | None = None) -> HeadScores:
    """Expected sensitivity of the loss to each head's gate, per example.

    I[l, h] = mean over x of |∂ loss(x) / ∂ ξ[l, h]| at ξ = 1 (Michel et al. 2019, section 4, eq. 2), the absolute
    value taken of each example by itself: every example has gates of its own, so the result does not depend on the
    batch size. Weights are frozen and the model is in eval mode. Scores are in loss units (nats) per unit of gate.

    Raises NonFinite where an example's loss or gradient is not finite, naming the example.
    """
    work = Work.of(model, task, batching)
    return work.mean(_gradients(work), "sizes", "gradient")


def taylor_importance(model: ModelUnderTest, task: Task, *, batching: Batching | None = None) -> HeadScores:
    """First-order estimate of how much the mean loss rises when a head is masked; signed, in nats.

    I[l, h] = mean over x of −∂ loss(x) / ∂ ξ[l, h] at ξ = 1: the step from 1 to 0 along the slope (the first term of
    the expansion of Molchanov et al. 2017, its sign kept). Negative where the loss is expected to fall.

    Raises NonFinite as `gradient_importance`.
    """
    work = Work.of(model, task, batching)
    return work.mean(_gradients(work), "slopes", "taylor", sign=-1.0)


def bertology_importance(model: ModelUnderTest, task: Task, *, batching: Batching | None = None) -> HeadScores:
    """The importance of transformers' run_bertology script, at its batch size of 1, before its normalisations.

    I[l, h] = Σ over x of |∂ loss(x) / ∂ ξ[l, h]| / number of tokens that are not padding, special tokens among them.
    Mended: the script never zeroes the gates' gradient, so that each batch counts again in all later ones, and with
    more than one example in a batch it takes the absolute value of their mean. Raises NonFinite.
    """
    work = Work.of(model, task, batching)
    return work.mean(_gradients(work), "sizes", "bertology", per=float(lengths(work.encoded).sum()))


def token_importance(model: ModelUnderTest, task: Task, *, batching: Batching | None = None) -> HeadScores:
    """Expected sensitivity of the loss to each head's gate at each single token, in nats.

    I[l, h] = mean over x of Σ over tokens t of |ctx[l, h, t] · ∂ loss(x) / ∂ ctx[l, h, t]|, ctx being what the output
    projection receives of the head at t. Never less than "gradient", in which contributions of tokens may cancel
    (Michel et al. 2019 take the absolute value of the sum). Raises NonFinite.
    """
    work = Work.of(model, task, batching)

    found = work.once("gradients of contexts", lambda batch: {"sizes": work.slopes_of_tokens(batch)})
    return work.mean(found, "sizes", "gradient_per_token")


def _gradients(work: Work) -> Arrays:
    """Sums over examples of the gates' slopes, and of their sizes."""

    def each(batch: Batch) -> Mapping[str, Tensor]:
        slopes = work.slopes(batch)
        return {"sizes": slopes.abs(), "slopes": slopes}

    return work.once("gradients of gates", each)


def _per_head(site: Site, product: Tensor, rows: int) -> Tensor:
    """(rows, heads): what the projection receives, summed over a head's slice, and the sizes of that over tokens."""
    apart = by_row(site, product, rows)
    heads = torch.stack([apart[..., site.slice(head)].sum(dim=-1) for head in range(site.heads)], dim=-1)
    return heads.abs().reshape(rows, -1, site.heads).sum(dim=1)


def _together(slopes: list[Tensor]) -> Tensor:
    """Layers side by side; they may be on several devices."""
    return torch.cat([slope.to(slopes[0].device) for slope in slopes], dim=1)


def _refuse_non_finite(values: Tensor, batch: Batch, task: Task, what: str) -> None:
    finite = torch.isfinite(values).cpu()
    if not bool(finite.all()):
        raise NonFinite(what, f"example {batch.positions[int((~finite).nonzero()[0])]} of {task.name}")
