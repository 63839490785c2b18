"""Where heads sit in a live model: the values that discovery finds and gating acts on."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Site:
    """One attention layer of a model, and the projection that consumes its heads side by side."""

    layer: int
    """Position among the attention layers of its stack, in the order the model runs them."""
    stack: str | None
    """"encoder", "decoder" or "cross" in encoder-decoder models, else None."""
    name: str
    """Module path of the projection, for messages."""
    attention: str
    """Module path of the attention module."""
    projection: nn.Module = field(repr=False)
    """The module whose input holds the heads' contexts; gates act on that input."""
    argument: int | str = field(repr=False)
    """Which argument of the projection's forward holds the contexts: a position or a keyword."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key-value heads; fewer than `heads` under grouped-query attention."""
    width: int
    """Numbers per head in the context: the width of its value vectors."""
    calls: int
    """How often one forward pass of the model runs the projection (more than once where layers share weights)."""

    def slice(self, head: int) -> slice:
        """The coordinates of `head` in the projection's input."""
        return slice(head * self.width, (head + 1) * self.width)

    def context(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Tensor:
        """The contexts among the arguments of a call of the projection."""
        found = args[self.argument] if isinstance(self.argument, int) else kwargs[self.argument]
        assert isinstance(found, Tensor)
        return found
