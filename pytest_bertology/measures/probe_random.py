"""A copy of a model with random weights: what its architecture, its tokenizer and its positions alone can do."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.copies import without_contexts

_SPREAD = 0.02
"""Standard deviation of weights whose initialisation the model leaves to others."""


def with_random_weights(model: ModelUnderTest, seed: int) -> ModelUnderTest:
    """A copy whose weights are drawn anew as the architecture initialises them; the model itself is left as it is.

    The copy is of the model as it was loaded: masks, erasures, skipped layers and changes of attention that are in
    force are not in force on it. Global random state is used and put back.
    """
    memo, finish = without_contexts(model.model)
    twin = copy.deepcopy(model, memo)
    finish()
    before = {name: parameter.detach().clone() for name, parameter in twin.model.named_parameters()}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        _initialise(twin.model, twin.model)
        for name, parameter in twin.model.named_parameters():
            # Vectors may be what they were: biases of 0 and scales of 1 are how they begin.
            if parameter.ndim > 1 and torch.equal(parameter, before[name]):
                parameter.normal_(0.0, _SPREAD)
    return twin


def _initialise(module: nn.Module, owner: PreTrainedModel) -> None:
    """Each module by the rule of the transformers model that it is a part of, children first."""
    for child in module.children():
        _initialise(child, child if isinstance(child, PreTrainedModel) else owner)
    for tensor in module.parameters(recurse=False):
        vars(tensor).pop("_is_hf_initialized", None)  # what was loaded would be left as it is
    owner._init_weights(module)
