"""Heads, masks, units and arguments that are not what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bertology.errors.base import BertologyError

if TYPE_CHECKING:
    from pytest_bertology.heads import Head, HeadMap


class UnknownHead(BertologyError, LookupError):
    """A head was named that the model does not have."""

    def __init__(self, head: Head, heads: HeadMap) -> None:
        self.head = head
        self.heads = heads
        stacks = [x.stack for x in heads.layers if x.stack and x.layer == head.layer and head.head < x.heads]
        example = f'. Name the stack too, for example ({head.layer}, {head.head}, "{stacks[0]}")' if stacks else ""
        hint = example if head.stack is None else ""
        count = f", counted from 0: the last is {heads[-1]}" if len(heads) else ""
        super().__init__(f"there is no head {head}: {heads.describe()}{count}{hint}")


class UnknownUnit(BertologyError, LookupError):
    """A neuron or dimension was named that the model does not have, or that cannot be told apart in it."""

    def __init__(self, unit: object, found: str) -> None:
        self.unit = unit
        super().__init__(f"there is no unit {unit}; what was found: {found}")


class NotAUnit(BertologyError, TypeError):
    """A value stood where a neuron or a dimension of a head was expected."""

    def __init__(self, value: object) -> None:
        self.value = value
        super().__init__(
            f"{value!r} is no unit: write Neuron(layer, neuron), or Dimension(layer, head, 'qk' or 'vo', dimension)"
        )


class NotAHead(BertologyError, TypeError):
    """A value stood where a head was expected."""

    def __init__(self, value: object) -> None:
        self.value = value
        super().__init__(
            f"{value!r} is not a head: write (layer, head), both counted from 0, for example (2, 4); "
            "several heads are a list of such pairs, [(2, 4), (5, 9)]"
        )


class InvalidGate(BertologyError, ValueError):
    """A gate outside [0, 1], or gates of the wrong number."""

    def __init__(self, found: object, expected: str) -> None:
        self.found = found
        self.expected = expected
        super().__init__(f"gates are numbers from 0 (masked) to 1 (as trained): expected {expected}, found {found}")


class InvalidScores(BertologyError, ValueError):
    """Head scores that are not one finite number per head."""

    def __init__(self, found: str, expected: str) -> None:
        self.found = found
        self.expected = expected
        super().__init__(f"head scores must be {expected}; found {found}")


class MaskOfAnotherModel(BertologyError, ValueError):
    """A head mask, or something else of one value per head (`made`), of a model with other heads."""

    def __init__(
        self, mask_heads: str, model_heads: str, source: str | None = None, *, made: str = "the head mask"
    ) -> None:
        self.mask_heads = mask_heads
        self.model_heads = model_heads
        self.source = source
        where = f" in {source}" if source else ""
        again = "the mask" if made == "the head mask" else "it"
        super().__init__(
            f"{made}{where} is for another model: it was made for {mask_heads}, "
            f"and this model has {model_heads}. Make {again} again for this model."
        )


class InvalidMaskFile(BertologyError, ValueError):
    """A mask file that cannot be read as one."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(
            f"{source} is not a head-mask file: {problem}. Write one with "
            "Path(file).write_text(HeadMask.without(model.heads, [(0, 1)]).to_json())."
        )


class InvalidArgument(BertologyError, ValueError):
    """An argument outside the values it can take."""

    def __init__(self, name: str, found: object, expected: str) -> None:
        self.name = name
        self.found = found
        self.expected = expected
        super().__init__(f"{name}={found!r} is not valid: expected {expected}")


class NoHeadSelected(BertologyError, ValueError):
    """A selection that leaves nothing to judge: a check on it could never fail."""

    def __init__(self, what: str, advice: str) -> None:
        self.what = what
        self.advice = advice
        super().__init__(f"{what}: nothing would be masked and the check could not fail. {advice}")


class NothingToJudge(BertologyError, ValueError):
    """A comparison in which nothing could differ: a check on it could never fail."""

    def __init__(self, what: str, advice: str) -> None:
        self.what = what
        self.advice = advice
        super().__init__(f"{what}: the check could not fail. {advice}")


class MissingExtra(BertologyError, ImportError):
    """A package that only an optional part needs, and that is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        self.what = what
        self.package = package
        self.extra = extra
        super().__init__(f'{what} needs {package}, which is not installed: pip install "pytest-bertology[{extra}]"')


class TooMuchMemory(BertologyError, MemoryError):
    """Results that would take more memory than they are allowed; nothing was computed."""

    def __init__(self, what: str, needed: int, limit: int, advice: str) -> None:
        self.what = what
        self.needed = needed
        self.limit = limit
        super().__init__(
            f"{what} would take {needed / 2**20:,.0f} MiB, and {limit / 2**20:,.0f} MiB are allowed. {advice}"
        )


class OutOfMemory(BertologyError, MemoryError):
    """Work that does not fit in memory, not even in batches of half the size."""

    def __init__(self, what: str, model: str, budget: int, longest: int, reason: str) -> None:
        self.what = what
        self.model = model
        self.budget = budget
        self.longest = longest
        self.reason = reason
        alone = "one example at a time" if longest >= budget else f"in batches of at most {budget:,} tokens"
        fewer = "" if longest >= budget else "take fewer tokens at a time with batching=Batching(tokens=...), "
        super().__init__(
            f"{what} of {model} does not fit in memory, not even {alone}; the longest example until then had "
            f"{longest:,} tokens ({reason}). What helps: {fewer}shorter texts, a dtype of half the size "
            "(dtype='bfloat16'), fewer pytest workers on one device, or a device with more memory."
        )


class ToleranceBelowNoise(BertologyError, ValueError):
    """A tolerance smaller than what the machine alone does to the score: the check would judge noise."""

    def __init__(self, tolerance: float, floor: float, cause: str, where: str, advice: str) -> None:
        self.tolerance = tolerance
        self.floor = floor
        self.cause = cause
        super().__init__(
            f"tolerance {tolerance:g} is below the noise floor {floor:.3g} of {where} on this machine: {cause}. A "
            f"check with it would judge noise. {advice}"
        )


class InvalidBaselines(BertologyError, ValueError):
    """A file of baselines that cannot be read, or an entry in it that is not what it says."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"{path} cannot be compared with: {problem}. Restore the file as it was committed, or delete what is wrong "
            "and write it anew with --bertology-update=new."
        )


class CannotResume(BertologyError, ValueError):
    """A checkpoint of a search that is damaged, or of another search."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(
            f"the search cannot go on from {path}: {reason}. Name another file, or delete this one to search anew."
        )
