"""The changes of attention as methods of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from pytest_bertology.heads import HeadLike
from pytest_bertology.models import changes, intervening
from pytest_bertology.models.blocks import LayerLike
from pytest_bertology.models.constants import ConstantAttention
from pytest_bertology.models.patterns import PatternLike

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest


class ChangesAttention:
    """What `ModelUnderTest` has of `with_…_attention`."""

    @contextmanager
    def with_constant_attention(
        self, constants: ConstantAttention, heads: HeadLike | Iterable[HeadLike] | None = None
    ) -> Iterator[ModelUnderTest]:
        """Run heads (default: all) with constant attention for the length of the context, in this thread (PAPA).

        From what `constant_attention` estimated, what a token may not see (padding, later tokens of a causal model) is
        left out, and each row made to add up to one; a row of which nothing is left is even over what it may see. This
        and the other changes of attention (`with_attention_pattern`, `with_top_k_attention`) nest, the later acting on
        what the earlier made of a head; masks act beside them. Measures in the context take the changed model for the
        model, and their results are never stored; it cannot be saved or cut.

        Raises MaskOfAnotherModel for constants of other heads, CannotChangeAttention for a text longer than all that
        they were estimated on, or where the weights of these heads are not seen (see `changed_attention`).
        """
        with changes.constant(self._model(), constants, heads):
            yield self._model()

    @contextmanager
    def with_attention_pattern(
        self, heads: HeadLike | Iterable[HeadLike], pattern: PatternLike
    ) -> Iterator[changes.PatternUse]:
        """Let heads attend to nothing but a pattern for the length of the context, in this thread (Li et al. 2022).

        `pattern` is one of `PATTERNS` ("matching_token": the same token id, the token itself among them; "previous",
        "next", "self", "first"; "within_sentence", see there), a number of places (-3: the third token before), or a
        function that is given the token ids of each text, without padding, and gives (tokens, tokens) bools. All other
        weights become 0 and the rest is made to add up to one (even, where all of them are 0 by rounding); a token to
        which the pattern and the model's mask leave nothing keeps its attention. How many do, what the context gives
        says (`.kept` of `.rows`). See `with_constant_attention` for what holds of all such contexts.

        Raises UnknownHead, InvalidArgument for another pattern, NoTokenizer, CannotChangeAttention for attention that
        is not of one text's tokens (cross-attention, a pass with a cache) or whose weights are not seen; at the end
        AttentionNotChanged, where the model ran and every token kept its attention ("next" in a causal model).
        """
        with changes.patterned(self._model(), heads, pattern) as use:
            yield use

    @contextmanager
    def with_top_k_attention(self, k: int, layers: Iterable[LayerLike] | None = None) -> Iterator[ModelUnderTest]:
        """Let each token attend to its `k` greatest keys alone, for the length of the context (AxFormer).

        In all attention layers, or in `layers`: numbers from 0, or (number, stack) pairs where the model has several
        stacks. What is left is made to add up to what all did. Of equal weights the first are kept. Where a pass has no
        more than `k` keys, it is bit for bit the pass as trained. See `with_constant_attention` for what holds of all
        such contexts. Raises InvalidArgument, UnknownLayer, CannotChangeAttention where weights are not seen.
        """
        with changes.top_k(self._model(), k, layers):
            yield self._model()

    def attention_changed(self) -> bool:
        """Whether changes of attention are in force in this thread."""
        return bool(intervening.in_force(self._model()))

    def attention_changes(self) -> tuple[str, ...]:
        """The changes of attention in force in this thread, in a few words each, the outermost first."""
        return intervening.described(self._model())

    def _model(self) -> ModelUnderTest:
        return cast("ModelUnderTest", self)
