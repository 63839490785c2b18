"""Stand-ins for models and results: made, by loading or computing, when somebody looks at more than is known."""

from __future__ import annotations

import operator
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from pytest_bertology.deferred.plain import NotPlain, decode, encode

if TYPE_CHECKING:
    from pytest_bertology.deferred.memory import Memory
    from pytest_bertology.heads import HeadMask

_UNMADE = object()
_KNOWN_OF_MODELS = ("name", "heads", "dtype", "kind")
"""What can be told of a model without loading it, once it was loaded."""


class _Handle:
    """Passes on whatever is asked of it to what it stands for."""

    __slots__ = ("__weakref__", "_state")
    _state: Any

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._state.made(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._state.made(), name)

    def __dir__(self) -> list[str]:
        return dir(self._state.made())

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        from copy import deepcopy

        return deepcopy(self._state.made(), memo)


class _Masking:
    """A mask that is in force although its model is not loaded."""

    def __init__(self, mask: HeadMask) -> None:
        self.mask = mask
        self.context: AbstractContextManager[Any] | None = None

    def enter(self, model: Any) -> None:
        """Mask the model, now that there is one."""
        self.context = model.masked(self.mask)
        self.context.__enter__()


class _ModelState:
    """What a model handle knows: the key of its files, the model once it is loaded, and the masks in force before."""

    def __init__(self, key: str, load: Callable[[], Any], unchanged: Callable[[], bool], memory: Memory) -> None:
        self.key, self.load, self.unchanged, self.memory = key, load, unchanged, memory
        self.real: Any = _UNMADE
        self.digest = ""
        self.masks: list[_Masking] = []
        self.thread = threading.get_ident()

    def made(self) -> Any:
        """The model, loaded now at the latest, the masks that were entered before in force."""
        if self.real is _UNMADE:
            if self.masks and threading.get_ident() != self.thread:
                raise RuntimeError("a model that one thread masks was first looked at in another: look at it before")
            self.memory.compute()
            self.become(self.load())
        return self.real

    def become(self, real: Any) -> None:
        """Stand for this model from now on."""
        self.digest = real.digest() if self.unchanged() else ""
        self.real = real
        for masking in self.masks:
            masking.enter(real)

    def identity(self) -> list[Any] | None:
        """The files' key and the gates in force; None for a model that is not as it was loaded."""
        made = self.real is not _UNMADE
        gates = self._gates_of_real() if made else self._gates() if self.unchanged() else None
        return None if gates is None else ["model", self.key, gates]

    def _gates(self) -> list[float] | None:
        if not self.masks:
            return []
        if threading.get_ident() != self.thread:
            return None
        product = [1.0] * len(self.masks[0].mask.gates)
        for masking in self.masks:
            product = [one * other for one, other in zip(product, masking.mask.gates, strict=True)]
        return _unless_open(product)

    def _gates_of_real(self) -> list[float] | None:
        real = self.real
        _, *changes = real.contexts_open()
        if not self.digest or any(changes) or real.in_force() is None or real.altered() or real.digest() != self.digest:
            return None
        if any(len(layer) != site.heads for layer, site in zip(real.in_force()[0], real.sites, strict=True) if layer):
            return None  # gates of each example
        return _unless_open(list(real.mask_in_force().gates))


def _unless_open(gates: list[float]) -> list[float]:
    return [] if all(gate == 1.0 for gate in gates) else gates


class ModelHandle(_Handle):
    """Stands for a `ModelUnderTest` that was proven before, from the same files, until it is needed."""

    __slots__ = ()

    def __init__(self, key: str, load: Callable[[], Any], unchanged: Callable[[], bool], memory: Memory) -> None:
        object.__setattr__(self, "_state", _ModelState(key, load, unchanged, memory))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return _class("pytest_bertology.models.under_test", "ModelUnderTest", ModelHandle)

    def __getattr__(self, name: str) -> Any:
        state: _ModelState = self._state
        if state.real is not _UNMADE:
            return getattr(state.real, name)
        if name in _KNOWN_OF_MODELS:
            return _told(state.memory, ["attribute", state.key, name], lambda: getattr(state.made(), name))
        if name not in _told(state.memory, ["names", state.key], lambda: dir(state.made())):
            raise AttributeError(f"a model has no {name!r}")  # many tools ask for marks of their own
        return getattr(state.made(), name)

    def __repr__(self) -> str:
        state: _ModelState = self._state
        if state.real is not _UNMADE:
            return repr(state.real)
        # As the loaded one: failures show it, and what they say must not hang on who loaded the model first.
        known = state.memory.find(state.memory.key("repr", state.key))
        return f"ModelUnderTest({self.name}, not loaded)" if known is None else str(decode(known["value"]))

    def as_mask(self, mask: Any) -> HeadMask:
        """See `ModelUnderTest.as_mask`."""
        from pytest_bertology.heads.masks import as_mask

        return as_mask(self.heads, mask)

    @contextmanager
    def masked(self, mask: Any) -> Iterator[Any]:
        """See `ModelUnderTest.masked`."""
        state: _ModelState = self._state
        if state.real is not _UNMADE or threading.get_ident() != state.thread:
            with state.made().masked(mask):
                yield self
            return
        masking = _Masking(self.as_mask(mask))
        state.masks.append(masking)
        try:
            yield self
        except BaseException as error:
            if masking.context is None or not masking.context.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            if masking.context is not None:
                masking.context.__exit__(None, None, None)
        finally:
            state.masks.remove(masking)

    def __identity__(self) -> list[Any] | None:
        return self._state.identity()  # type: ignore[no-any-return]


def remember_model(handle: ModelHandle, memory: Memory) -> None:
    """Keep what can be told of a loaded model without it, for sessions that do not load it."""
    state: _ModelState = handle._state
    for name in _KNOWN_OF_MODELS:
        _kept(memory, memory.key("attribute", state.key, name), getattr(state.made(), name))
    _kept(memory, memory.key("names", state.key), dir(state.made()))
    _kept(memory, memory.key("repr", state.key), repr(state.made()))


class Answer(_Handle):
    """Stands for a result that is known: what was asked of it before it tells, the rest it is computed for."""

    __slots__ = ()

    def __init__(
        self, key: str, compute: Callable[[], Any], memory: Memory, seen: Mapping[str, Any], real: Any = _UNMADE
    ) -> None:
        object.__setattr__(self, "_state", _AnswerState(key, compute, memory, seen, real))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        module, name = self._state.kind
        return _class(module, name, Answer)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            return getattr(self._state.made(), name)
        return self._state.told(["attribute", self._state.key, name], name)

    def __repr__(self) -> str:
        return str(self._state.shown)

    def __identity__(self) -> list[Any] | None:
        return ["answer", self._state.key]


class _AnswerState:
    """What an answer knows of itself."""

    def __init__(
        self, key: str, compute: Callable[[], Any], memory: Memory, seen: Mapping[str, Any], real: Any
    ) -> None:
        self.key, self.compute, self.memory, self.real = key, compute, memory, real
        self.shown, self.kind = str(seen["shown"]), tuple(seen["class"])

    def made(self) -> Any:
        """The result itself."""
        if self.real is _UNMADE:
            self.memory.compute()
            self.real = self.compute()
        return self.real

    def told(self, asked: list[Any], name: str) -> Any:
        """An attribute: from memory, else of the result itself, and then kept where it is plain."""
        key = self.memory.key(*asked)
        found = self.memory.find(key)
        if found is not None and found.get("method"):
            return _Method(self, name)
        if found is not None and found.get("missing"):
            raise AttributeError(f"{self.shown} has no {name!r}")
        if found is None:
            try:
                value = getattr(self.made(), name)
            except AttributeError:
                self.memory.keep(key, {"missing": True})
                raise
            if callable(value) and getattr(value, "__self__", None) is self.real:
                self.memory.keep(key, {"method": True})
                return _Method(self, name)
        return _told(self.memory, asked, lambda: getattr(self.made(), name))


class _Method:
    """A method of an answer; what it returned for plain arguments is kept."""

    def __init__(self, state: _AnswerState, name: str) -> None:
        self._state, self.__name__ = state, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from pytest_bertology.deferred.describing import Undescribed, described

        state = self._state
        try:
            asked = described([args, kwargs])
        except Undescribed:
            return self._real(*args, **kwargs)
        return _told(state.memory, ["method", state.key, self.__name__, asked], lambda: self._real(*args, **kwargs))

    def _real(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._state.made(), self.__name__)(*unwrapped(args), **unwrapped(kwargs))

    def __repr__(self) -> str:
        return f"<method {self.__name__} of {self._state.shown}>"


def _told(memory: Memory, asked: list[Any], compute: Callable[[], Any]) -> Any:
    key = memory.key(*asked)
    found = memory.find(key)
    if found is not None and "value" in found:
        return decode(found["value"])
    if found is not None and "shown" in found:
        return Answer(key, compute, memory, found)
    return _kept(memory, key, compute())


def _kept(memory: Memory, key: str, value: Any) -> Any:
    """Keep a plain value, and that there is one of the package's; what gives nothing may be called for what it does."""
    if value is None:
        return value
    try:
        memory.keep(key, {"value": encode(value)})
    except NotPlain:
        if is_dataclass(value) or hasattr(value, "_fields"):
            memory.keep(key, seen_of(value))
            return Answer(key, lambda: value, memory, seen_of(value), value)
    return value


def seen_of(value: Any) -> dict[str, Any]:
    """What is told of a result that is not there: how it prints, and its class by name."""
    return {"shown": repr(value), "class": [type(value).__module__, type(value).__name__]}


def _class(module: str, name: str, otherwise: type) -> type:
    """For `isinstance`: a class that nobody has imported is one that nobody can ask for."""
    found = getattr(sys.modules.get(module), name, otherwise)
    assert isinstance(found, type)
    return found


def is_value(value: Any) -> bool:
    """Whether a result is given as it is: numbers, texts, and collections of them; reports and scores are not."""
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict | set | frozenset)


def unwrapped(value: Any) -> Any:
    """What handles stand for, in place of them, in arguments and collections of them."""
    kind = type(value)
    if kind is ModelHandle or kind is Answer:
        return value._state.made()
    if kind is list:
        return [unwrapped(part) for part in value]
    if kind is tuple:
        return tuple(unwrapped(part) for part in value)
    if kind is dict:
        return {name: unwrapped(part) for name, part in value.items()}
    return value


def is_handle(value: Any) -> bool:
    """Whether a value is a stand-in; asks nothing of it."""
    return type(value) is ModelHandle or type(value) is Answer


def is_loaded(value: Any) -> bool:
    """Whether a model is there: no handle, or one whose model was loaded."""
    return type(value) is not ModelHandle or value._state.real is not _UNMADE


def _asked(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A question that is answered from memory where it can be."""

    def ask(self: Any) -> Any:
        state: _AnswerState = self._state
        return _told(state.memory, ["asked", state.key, name], lambda: function(state.made()))

    return ask


def _passed_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """An operation that is done on the result itself."""

    def call(self: Any, *args: Any) -> Any:
        return function(self._state.made(), *unwrapped(args))

    return call


for _function in (bool, len, str, float, int):
    setattr(Answer, f"__{_function.__name__}__", _asked(_function.__name__, _function))
for _name in ("getitem", "contains", "eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "neg", "abs"):
    setattr(Answer, f"__{_name}__", _passed_on(getattr(operator, _name)))
Answer.__iter__ = _passed_on(iter)  # type: ignore[attr-defined]
Answer.__hash__ = _passed_on(hash)  # type: ignore[method-assign]
