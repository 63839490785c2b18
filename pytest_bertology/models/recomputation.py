"""Gradient checkpointing runs layers a second time during `backward()`: prove that the gates act there too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError
from transformers import PreTrainedModel

from pytest_bertology.errors import SelfCheckFailed
from pytest_bertology.models.gating import Gating
from pytest_bertology.models.sites import Site


def check_recomputation(
    model: PreTrainedModel, sites: Sequence[Site], gating: Gating, sample: Mapping[str, Any]
) -> int:
    """Compare gradients with and without checkpointing, under gates; return how many forward passes that took.

    Nothing is done for a model that does not checkpoint, or has nothing to train. Raises SelfCheckFailed where the
    gradients differ.
    """
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]
    if not layers or not any(parameter.requires_grad for parameter in model.parameters()):
        return 0
    plain = _gradients(model, sites, gating, sample)
    try:
        with _checkpointing(layers):
            again = _gradients(model, sites, gating, sample)
    except CheckpointError as error:
        problem = f"gradient checkpointing recomputes something else ({str(error).splitlines()[0]})"
        raise SelfCheckFailed(type(model).__name__, "its layers", problem) from error
    for site, one, other in zip(sites, plain, again, strict=True):
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-6 * max(float(one.abs().max()), 1.0)):
            raise SelfCheckFailed(
                type(model).__name__, site.name, "gradient checkpointing recomputes it without its gate"
            )
    return 2


def _gradients(
    model: PreTrainedModel, sites: Sequence[Site], gating: Gating, sample: Mapping[str, Any]
) -> list[Tensor]:
    """The gradient of the summed squares of the output by every gate, all gates at one half."""
    gates = [torch.full((site.heads,), 0.5, requires_grad=True) for site in sites]
    with torch.enable_grad(), _own_gradients(model), gating.gated(gates):
        result = model(**sample)
        values = result.to_tuple() if hasattr(result, "to_tuple") else result
        numbers = [v for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.requires_grad]
        torch.stack([value.double().square().sum() for value in numbers]).sum().backward()  # type: ignore[no-untyped-call]
    return [torch.zeros_like(gate) if gate.grad is None else gate.grad for gate in gates]


@contextmanager
def _own_gradients(model: nn.Module) -> Iterator[None]:
    """Gradients of the weights are put aside and put back; reentrant checkpointing cannot do without them."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


@contextmanager
def _checkpointing(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Training mode for the checkpointed layers alone, whose parts keep theirs: no dropout."""
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.training = mode
