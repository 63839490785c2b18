"""Where heads sit in a live model: the values that discovery finds and gating acts on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pytest_bertology.models.attention import Key


@dataclass(frozen=True, eq=False)
class Site:
    """One attention layer of a model, and the module that consumes its heads side by side."""

    layer: int
    """Position among the attention layers of its stack, in the order the model runs them."""
    stack: str | None
    """"encoder", "decoder" or "cross" in encoder-decoder models; the tower's name beside a language model; or None."""
    name: str
    """Module path of the projection, for messages."""
    attention: str
    """Module path of the attention module."""
    projection: nn.Module = field(repr=False)
    """The module whose input holds the heads' contexts, mostly the output projection; gates act on that input."""
    argument: int | str = field(repr=False)
    """Which argument of the projection's forward holds the contexts: a position or a keyword."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key-value heads; fewer than `heads` under grouped-query attention. 0 where the model does not show them."""
    width: int
    """Numbers per head in the context: the width of its value vectors."""
    features: int
    """Numbers per token in the projection's input; those behind the heads' belong to no head."""
    calls: int
    """How often one forward pass of the model runs the projection (more than once where layers share weights)."""
    found: str
    """How: "interface" (the attention interface's own result arrives), "gated" (it is multiplied on its way by numbers
    of the model's) or "function" (the model calls softmax itself)."""
    feature_axis: int = -1
    """Along which axis of the projection's input heads lie side by side: the last, or 1 for convolutions."""
    batch_axis: int = 0
    """Which axis of the projection's input runs over examples."""
    flattened: bool = False
    """Whether that axis runs over tokens or windows of tokens too, those of one example after the other."""
    taps: Mapping[Key, int] = field(default_factory=dict, repr=False)
    """The attention calls of one forward pass that compute these heads, and the axis of heads in their results."""

    slots: tuple[int, ...] = ()
    """Which of the heads that attention computes these are, where some of a cut model are left without weights."""
    computed: int = 0
    """How many heads attention computes then."""

    def slice(self, head: int) -> slice:
        """The coordinates of `head` in the projection's input."""
        slot = self.slots[head] if self.slots else head
        return slice(slot * self.width, (slot + 1) * self.width)

    def gates_computed(self, gates: Tensor) -> Tensor:
        """Gates (…, heads) as gates of all heads that attention computes; 1 for those without weights."""
        if not self.slots:
            return gates
        every = gates.new_ones(*gates.shape[:-1], self.computed)
        return every.index_copy(-1, torch.tensor(self.slots, device=gates.device), gates)

    def context(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The contexts among the arguments of a call of the projection."""
        found = args[self.argument] if isinstance(self.argument, int) else kwargs[self.argument]
        assert isinstance(found, Tensor)
        return found

    def replaced(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], context: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of the projection, with other contexts."""
        if isinstance(self.argument, int):
            return (*args[: self.argument], context, *args[self.argument + 1 :]), kwargs
        return args, {**kwargs, self.argument: context}
