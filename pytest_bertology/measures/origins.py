"""How a value was made: by which measure, of which model, from what else; so that it can be made of another model."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pytest_bertology.errors import CannotMeasure, InvalidGate

if TYPE_CHECKING:
    from pytest_bertology.heads import HeadMask
    from pytest_bertology.models import ModelUnderTest

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, repr=False)
class Origin:
    """A call of a measure: what it was given, and what was in force while it ran."""

    measure: str
    """The function's name."""
    function: Callable[..., Any] = field(repr=False)
    arguments: tuple[Any, ...]
    """After the model."""
    options: Mapping[str, Any]
    state: str
    """What was masked, skipped and changed of the model around the call, in words; "" for nothing."""
    mask: HeadMask | None
    """The head mask in force around the call; None where no head was masked."""
    only_masked: bool
    """Whether nothing but that mask was in force."""
    _model: weakref.ref[ModelUnderTest]

    def __repr__(self) -> str:
        return f"Origin({self.measure})"

    @property
    def model(self) -> ModelUnderTest | None:
        """The model it was made of, while it is there."""
        return self._model()

    @property
    def data(self) -> Any:
        """What the model was given to read: a task, or texts; None for a measure of the model alone."""
        if self.arguments:
            return self.arguments[0]
        return next((self.options[name] for name in ("task", "texts", "data") if name in self.options), None)

    def on(self, other: ModelUnderTest) -> Any:
        """The same measure of another model, under the same head mask.

        Raises CannotMeasure where more than a mask was in force around the call; and what the measure raises.
        """
        if not self.only_masked:
            reason = f"it was made with {self.state}, which cannot be put on another model by itself"
            raise CannotMeasure(f"{self.measure} of another model", other.name, reason)
        if self.mask is None:
            return self.function(other, *self.arguments, **self.options)
        with other.masked(self.mask):
            return self.function(other, *self.arguments, **self.options)


_OWN = "a function of a model"
_known: dict[int, tuple[weakref.ref[Any], Origin]] = {}
"""By the value's id: values need not be hashable. An entry goes when its value does."""


def origin_of(value: object) -> Origin | None:
    """How a value was made; None for what no measure made as it is, such as a part of a report."""
    known = _known.get(id(value))
    return known[1] if known is not None and known[0]() is value else None


def made_by(function: Callable[..., Any], model: ModelUnderTest) -> Origin:
    """The origin of what `function(model)` gives if it is called now."""
    before = _in_force(model)
    assert before is not None, model
    return Origin(_OWN, function, (), {}, *before, _model=weakref.ref(model))


def remakeable(function: Callable[P, R]) -> Callable[P, R]:
    """Note how what the function returns was made. Its first argument is a model; nothing is kept alive by the note.

    The arguments are, as long as the value is: a task, texts, options.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        model = args[0] if args else kwargs.get("model")
        before = _in_force(model)
        value = function(*args, **kwargs)
        if before is not None:
            options = {name: given for name, given in kwargs.items() if name != "model"}
            note(value, Origin(function.__name__, call, args[1:], options, *before, _model=weakref.ref(model)))  # type: ignore[arg-type]
        return value

    return call


def note(value: object, origin: Origin) -> None:
    """Remember how a value was made, for as long as it is there."""
    key = id(value)
    try:
        reference = weakref.ref(value, lambda _: _known.pop(key, None))
    except TypeError:  # a plain number or tuple
        return
    _known[key] = reference, origin


def _in_force(model: object) -> tuple[str, HeadMask | None, bool] | None:
    """In words, as a mask, and whether that mask is all; None for what is no model."""
    from pytest_bertology.engine.announcing import state_of
    from pytest_bertology.models import ModelUnderTest

    if not isinstance(model, ModelUnderTest):
        return None
    try:
        mask = model.mask_in_force()
    except InvalidGate:
        return state_of(model), None, False
    touched = mask if mask.touched else None
    only = model.contexts_open()[1:] == (0,) * (len(model.contexts_open()) - 1)
    return state_of(model), touched, only
