"""How much each layer changes what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pytest_bertology.engine.batching import Batch, Batching, batches
from pytest_bertology.engine.encoding import Encoded, encode
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.store import computed_once
from pytest_bertology.errors import CannotDropLayers, NonFinite
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.blocks import Blocks, of_stack
from pytest_bertology.models.skipping import states_key, states_of
from pytest_bertology.tasks.task import Task


@remakeable
def layer_similarity(
    model: ModelUnderTest, task: Task, *, stack: str | None = None, batching: Batching | None = None
) -> npt.NDArray[np.float64]:
    """How like its output each layer's input is: the cosine of the two, averaged over the real tokens of `task`.

    Sajjad et al. 2023, section 3 (contribution-based dropping): a layer of high similarity changes little. They
    average over the first token of each example alone; decoders and token classifiers have no such token, so that here
    every token counts that is not padding. The cosines are computed and summed in float64 and do not depend on the
    batch size but for the model's own rounding; where a state is zero its cosine is 0. Masks in force stay in force.

    Returns one cosine per layer of the stack, (layers,), counted as `blocks` counts them. Raises NonFinite where one is
    not finite, CannotDropLayers where a layer's states are not one per token.
    """
    check_model_and_task(model, task)
    found = of_stack(model, stack)
    encoded, batching = encode(model, task), batching or Batching()
    stored = computed_once(
        f"layer similarity of {found.path}",
        (model, encoded, model.mask_in_force(), batching),
        lambda: {"similarity": _mean_cosines(model, task, found, encoded, batching)},
    )
    similarity: npt.NDArray[np.float64] = stored["similarity"]
    return similarity


def _mean_cosines(
    model: ModelUnderTest, task: Task, found: Blocks, encoded: Encoded, batching: Batching
) -> npt.NDArray[np.float64]:
    totals = torch.zeros(found.count, dtype=torch.float64)
    tokens = done = 0
    layers = list(model.model.get_submodule(found.path).children())
    token_axis = _token_axis(model, found)
    with ExitStack() as stack:
        for context in (torch.inference_mode(), model.frozen()):
            stack.enter_context(context)
        real: list[Tensor] = []
        for index, layer in enumerate(layers):
            add = _adder(totals, index, real, token_axis, f"{type(model.model).__name__}", f"{found.path}.{index}")
            stack.callback(layer.register_forward_hook(add, with_kwargs=True).remove)
        show = stack.enter_context(tracked(f"{task.name}, layer similarity", len(task)))
        for batch in batches(model, encoded, batching):
            real[:] = [_real(batch, encoded, batching)]
            model.model(**batch.inputs)
            tokens += int(real[0].sum())
            done += len(batch.positions)
            show(done)
    means: npt.NDArray[np.float64] = (totals / tokens).numpy()
    if not np.isfinite(means).all():
        raise NonFinite("the similarity", f"layer {int(np.flatnonzero(~np.isfinite(means))[0])} of {model.name}")
    return means


def _adder(
    totals: Tensor, index: int, real: list[Tensor], token_axis: int, architecture: str, name: str
) -> Callable[..., None]:
    """A hook that adds a layer's cosines at the real tokens to its total."""

    def add(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        if not real:
            return  # batches are tried out for padding on the left
        key = states_key(layer, args, kwargs)
        before, after = args[0] if key is None else kwargs.get(key), states_of(result)
        shape = None if after is None else after.shape
        if not isinstance(before, Tensor) or after is None or before.shape != shape or after.ndim != 3:
            raise CannotDropLayers(architecture, f"{name} does not return states like those that it is given")
        if token_axis == 0:
            before, after = before.transpose(0, 1), after.transpose(0, 1)
        mask = real[0]
        if after.shape[0] != mask.shape[0] or after.shape[1] < mask.shape[1]:
            raise CannotDropLayers(architecture, f"{name} does not have one state per token")
        length = mask.shape[1]  # some models pad further, on the right
        one, two = (states[:, :length][mask.to(states.device)].double() for states in (before, after))
        scale = (one.norm(dim=-1) * two.norm(dim=-1)).clamp_min(torch.finfo(torch.float64).tiny)
        totals[index] += ((one * two).sum(dim=-1) / scale).sum().cpu()

    return add


def _real(batch: Batch, encoded: Encoded, batching: Batching) -> Tensor:
    """(batch, tokens) where a token is not padding."""
    lengths = torch.tensor([len(encoded.examples[position].ids) for position in batch.positions])
    longest = int(lengths.max())
    real = torch.arange(longest) < lengths[:, None]
    return real.flip(1) if batching.padding_side == "left" else real


def _token_axis(model: ModelUnderTest, found: Blocks) -> int:
    """Which axis of the states runs over tokens: the second, or the first where examples are the second (XLNet)."""
    axes = {site.batch_axis for site in model.sites if site.attention.startswith(f"{found.path}.")}
    return 0 if axes == {1} else 1
