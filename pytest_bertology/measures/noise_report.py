"""What the machine alone does to a score: setting by setting, and the least tolerance that says more than noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest_bertology.errors import InvalidArgument

BATCH, PADDING, ATTENTION, THREADS, DTYPE = FACTORS = ("batch", "padding", "attention", "threads", "dtype")


@dataclass(frozen=True)
class NoiseSetting:
    """One way to run the same model on the same data, beside the way it is usually run."""

    factor: str
    """Which of "batch", "padding", "attention", "threads", "dtype" was set otherwise."""
    setting: str
    """To what, such as "one example at a time"."""
    change: float
    """The score less the usual one."""
    changed: int | None
    """Predictions that are other ones; None for a regression, which gives numbers."""
    logits: float
    """The greatest change of a logit; of a language model's, of those of the two likeliest tokens and the right one."""
    losses: float
    """The greatest change of an example's loss, in nats."""
    near: int
    """Predictions whose two greatest logits are closer than twice `logits`: as much noise could turn them."""
    implied: float
    """How far the score would move if all of these turned the same way, and losses moved by `losses`."""
    finer: bool = False
    """Whether it is a dtype more precise than the model's own: what it changes is the model's rounding."""

    @property
    def floor(self) -> float:
        """The score's change, seen or implied, whichever is greater."""
        return max(abs(self.change), self.implied)

    def describe(self) -> str:
        """In one sentence, for messages."""
        seen = f"{self.factor} ({self.setting}) changes the score by {self.change:+.3g} and logits by up to "
        seen += f"{self.logits:.2g}"
        if self.implied > abs(self.change) and self.near:
            one = self.near == 1
            seen += f", and {self.near} prediction{' is' if one else 's are'} so near a tie that it could turn "
            seen += "it" if one else "them"
        return seen


@dataclass(frozen=True, eq=False, repr=False)
class NoiseFloor:
    """What batch size, padding, attention backend, threads and dtype do to a model's score on this machine."""

    model: str
    task: str
    metric: str
    dtype: str
    device: str
    examples: int
    items: int
    """Predictions that the score is made of."""
    score: float
    """Run the usual way."""
    settings: tuple[NoiseSetting, ...]
    left_out: tuple[tuple[str, str], ...] = field(default=())
    """Factors that could not be set otherwise, or settings of them, and why."""

    def __repr__(self) -> str:
        return f"NoiseFloor({self.model} on {self.task}: {self.floor:.3g} in {self.metric}, {self.dtype})"

    @property
    def floor(self) -> float:
        """The greatest change of the score, seen or implied, by factors that leave the dtype as it is; 0 for none."""
        return self._greatest(lambda each: each.factor != DTYPE)

    @property
    def rounding(self) -> float:
        """The same of the next more precise dtype: what the rounding of the model's own does; 0 where not measured."""
        return self._greatest(lambda each: each.finer)

    @property
    def least_tolerance(self) -> float:
        """Tolerances below are refused: the greater one of `floor` and `rounding`.

        A less precise dtype does not count. What it would do is no noise of scores in this one; see `dtypes`.
        """
        return max(self.floor, self.rounding)

    @property
    def dtypes(self) -> tuple[NoiseSetting, ...]:
        """What copies of the model in other dtypes score."""
        return self.factor(DTYPE)

    @property
    def worst(self) -> NoiseSetting | None:
        """The setting that makes `least_tolerance`; None where nothing was measured that counts."""
        counted = [each for each in self.settings if each.factor != DTYPE or each.finer]
        return max(counted, key=lambda each: (each.floor, each.logits), default=None)

    def factor(self, name: str) -> tuple[NoiseSetting, ...]:
        """The settings of one factor; none where it could not be set otherwise (see `left_out`)."""
        if name not in FACTORS:
            raise InvalidArgument("name", name, "one of " + ", ".join(FACTORS))
        return tuple(each for each in self.settings if each.factor == name)

    def table(self) -> str:
        """A row per setting: how far the score, predictions, logits and losses move, and the floor that follows."""
        rows = [("factor", "setting", "score", "predictions", "logits", "losses", "near a tie", "floor")]
        for each in self.settings:
            changed = "" if each.changed is None else str(each.changed)
            numbers = f"{each.change:+.3g}", changed, f"{each.logits:.1e}", f"{each.losses:.1e}", str(each.near)
            told = each.floor if each.factor != DTYPE or each.finer else None
            rows.append((each.factor, each.setting, *numbers, "(does not count)" if told is None else f"{told:.3g}"))
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        lines = [f"{self.model} on {self.task}, {self.dtype} on {self.device}: {self.metric} {self.score:.6g}"]
        for row in rows:
            cells = [
                cell.ljust(width) if at < 2 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        lines += [f"{name}: not measured, {why}" for name, why in self.left_out]
        return "\n".join([*lines, f"noise floor {self.floor:.3g}, rounding of {self.dtype} {self.rounding:.3g}"])

    def to_jsonable(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        named = ("model", "task", "metric", "dtype", "device", "examples", "items", "score")
        return {
            **{name: getattr(self, name) for name in named},
            "floor": self.floor,
            "rounding": self.rounding,
            "least_tolerance": self.least_tolerance,
            "settings": [{**vars(each), "floor": each.floor} for each in self.settings],
            "left_out": [list(each) for each in self.left_out],
        }

    def _greatest(self, counts: Callable[[NoiseSetting], bool]) -> float:
        return max((each.floor for each in self.settings if counts(each)), default=0.0)
