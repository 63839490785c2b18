"""Head masks: a gate for every head of a map."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pytest_bertology.errors import InvalidGate, InvalidMaskFile, MaskOfAnotherModel, NotAHead
from pytest_bertology.heads.maps import Head, HeadLike, HeadMap, as_head

_MASK_SCHEMA = "pytest-bertology head mask 1"


@dataclass(frozen=True, repr=False)
class HeadMask:
    """A gate in [0, 1] for every head of a map: 1 as trained, 0 masked. Hashable.

    `a | b` masks what either masks, `a & b` what both mask, `a - b` what `a` masks and `b` does not, `~a` the other
    heads; `a <= b` holds where `b` masks at least what `a` does.
    """

    heads: HeadMap
    gates: tuple[float, ...]

    def __post_init__(self) -> None:
        gates = tuple(float(gate) for gate in self.gates)
        object.__setattr__(self, "gates", gates)
        if len(gates) != len(self.heads):
            raise InvalidGate(f"{len(gates)} of them", f"one for each of {len(self.heads)} heads")
        for head, gate in zip(self.heads, gates, strict=True):
            if not 0.0 <= gate <= 1.0:
                raise InvalidGate(f"{gate} for {head}", "a number from 0 to 1")

    @classmethod
    def keep_all(cls, heads: HeadMap) -> HeadMask:
        """The mask that masks nothing."""
        return cls(heads, (1.0,) * len(heads))

    @classmethod
    def without(cls, heads: HeadMap, masked: Iterable[HeadLike]) -> HeadMask:
        """The mask that masks these heads; raises UnknownHead for one the map does not have."""
        gone = set(heads.select(masked))
        return cls(heads, tuple(0.0 if head in gone else 1.0 for head in heads))

    @classmethod
    def only(cls, heads: HeadMap, kept: Iterable[HeadLike]) -> HeadMask:
        """The mask that keeps these heads and masks all others."""
        return ~cls.without(heads, kept)

    @property
    def masked(self) -> tuple[Head, ...]:
        """The heads whose gate is 0, in the map's order."""
        return tuple(head for head, gate in zip(self.heads, self.gates, strict=True) if gate == 0.0)

    @property
    def touched(self) -> tuple[Head, ...]:
        """The heads whose gate is not 1: masked, or damped."""
        return tuple(head for head, gate in zip(self.heads, self.gates, strict=True) if gate != 1.0)

    @property
    def fraction_masked(self) -> float:
        """Masked heads as a share of all heads."""
        return len(self.masked) / len(self.heads) if len(self.heads) else 0.0

    def gate(self, head: HeadLike) -> float:
        """The gate of one head."""
        return self.gates[self.heads.index(head)]

    def __or__(self, other: HeadMask) -> HeadMask:
        return NotImplemented if not isinstance(other, HeadMask) else self._combine(other, min)

    def __and__(self, other: HeadMask) -> HeadMask:
        return NotImplemented if not isinstance(other, HeadMask) else self._combine(other, max)

    def __sub__(self, other: HeadMask) -> HeadMask:
        return NotImplemented if not isinstance(other, HeadMask) else self & ~other

    def __invert__(self) -> HeadMask:
        return HeadMask(self.heads, tuple(1.0 - gate for gate in self.gates))

    def __le__(self, other: HeadMask) -> bool:
        return self._combine(other, min) == other

    def __ge__(self, other: HeadMask) -> bool:
        return other <= self

    def __repr__(self) -> str:
        damped = len(self.touched) - len(self.masked)
        names = " ".join(map(str, self.masked)) or "none"
        return f"HeadMask(masked: {names}{f'; damped: {damped}' if damped else ''}; of {self.heads.describe()})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Hypothesis prints a failing test's arguments field by field where it is not told otherwise.
        printer.text(repr(self))

    def to_json(self) -> str:
        """This mask as JSON text that a person can read and a diff can show."""
        damped = {str(h): g for h, g in zip(self.heads, self.gates, strict=True) if g not in (0.0, 1.0)}
        content: dict[str, Any] = {
            "schema": _MASK_SCHEMA,
            "heads": self.heads.to_jsonable(),
            "masked": [list(head) if head.stack else [head.layer, head.head] for head in self.masked],
        }
        if self.heads.kept is not None:
            content["kept"] = [list(head) if head.stack else [head.layer, head.head] for head in self.heads.kept]
        if damped:
            content["gates"] = damped
        lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items())
        return f"{{\n{lines}\n}}\n"

    @classmethod
    def from_json(cls, text: str, heads: HeadMap | None = None, source: str = "the text") -> HeadMask:
        """Read what `to_json` wrote; with `heads`, insist that the mask is for a model with those heads.

        Raises InvalidMaskFile, MaskOfAnotherModel or UnknownHead.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidMaskFile(source, f"it is not JSON ({error})") from None
        if not isinstance(content, dict) or not isinstance(content.get("masked"), list) or "heads" not in content:
            raise InvalidMaskFile(source, 'it must be an object with "heads" and "masked"')
        if content.get("schema", _MASK_SCHEMA) != _MASK_SCHEMA:
            raise InvalidMaskFile(source, f"its schema is {content['schema']!r}; this version reads {_MASK_SCHEMA!r}")
        own = _read_head_map(content["heads"], content.get("kept"), source)
        if heads is not None and own != heads:
            raise MaskOfAnotherModel(own.identify(), heads.identify(), source)
        try:
            mask = cls.without(own, content["masked"])
        except NotAHead as error:
            raise InvalidMaskFile(source, f'"masked" must list [layer, head] pairs; {error.value!r} is none') from None
        damped = content.get("gates", {})
        if not isinstance(damped, dict) or not all(isinstance(gate, int | float) for gate in damped.values()):
            raise InvalidMaskFile(source, '"gates" must map head names such as "L2H4" to numbers')
        unknown = set(damped) - {str(head) for head in own}
        if unknown:
            raise InvalidMaskFile(source, f'"gates" names heads the mask does not have: {sorted(unknown)}')
        twice = sorted(set(damped) & set(map(str, mask.masked)))
        if twice:
            raise InvalidMaskFile(source, f'"masked" and "gates" name the same heads: {twice}')
        try:
            return cls(own, tuple(damped.get(str(h), g) for h, g in zip(own, mask.gates, strict=True)))
        except InvalidGate as error:
            raise InvalidMaskFile(source, str(error)) from None

    def _combine(self, other: HeadMask, choose: Callable[[float, float], float]) -> HeadMask:
        if self.heads != other.heads:
            raise MaskOfAnotherModel(other.heads.identify(), self.heads.identify())
        return HeadMask(self.heads, tuple(map(choose, self.gates, other.gates)))


def _read_head_map(counts: object, kept: object, source: str) -> HeadMap:
    stacks = counts.values() if isinstance(counts, dict) else [counts]
    for stack in stacks:
        if not isinstance(stack, list) or not all(isinstance(n, int) and n >= 0 for n in stack):
            raise InvalidMaskFile(source, '"heads" must be the number of heads of each layer, for example [12, 12]')
    if kept is None:
        return HeadMap(counts)  # type: ignore[arg-type]
    try:
        return HeadMap(counts, [as_head(head) for head in kept])  # type: ignore[arg-type,attr-defined]
    except (NotAHead, TypeError):
        raise InvalidMaskFile(source, '"kept" must list the heads of a cut model as [layer, head] pairs') from None


def as_mask(heads: HeadMap, mask: HeadMask | Iterable[HeadLike]) -> HeadMask:
    """A mask of these heads, from a mask or from the heads to mask; raises MaskOfAnotherModel."""
    if not isinstance(mask, HeadMask):
        return HeadMask.without(heads, mask)
    if mask.heads != heads:
        raise MaskOfAnotherModel(mask.heads.identify(), heads.identify())
    return mask
