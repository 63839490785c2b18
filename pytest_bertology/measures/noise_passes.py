"""The same model run over the same data in other ways: other batches, padding, attention, threads and dtypes.

Passes here are plain ones: nothing is stored, and nearly equal logits are left as they come, since how they come is
what is measured.
"""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from pytest_bertology.engine.batching import Batching, budget, collate, left_needs_positions, plan
from pytest_bertology.engine.encoding import Encoded, lengths, max_length
from pytest_bertology.engine.memory import out_of_memory, within_memory
from pytest_bertology.engine.objectives import Judged, judge
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.results import KEEPS_LOGITS
from pytest_bertology.engine.tables import items_of
from pytest_bertology.errors import BertologyError, BertologyWarning, InvalidArgument, NonFinite
from pytest_bertology.heads import HeadMask
from pytest_bertology.measures.noise_report import ATTENTION, BATCH, DTYPE, PADDING, THREADS
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.copies import without_contexts
from pytest_bertology.models.quiet import Quiet
from pytest_bertology.models.sampling import can_batch
from pytest_bertology.models.trained import departs
from pytest_bertology.tasks.metrics import REGRESSION, Array

_BACKENDS = ("eager", "sdpa")
_DTYPES = {
    "float64": ("float32", "bfloat16"),
    "float32": ("float64", "bfloat16"),
    "bfloat16": ("float32",),
    "float16": ("float32", "bfloat16"),
}
FINER = {"float32": "float64", "bfloat16": "float32", "float16": "float32"}
"""Of each dtype the next more precise one."""
_COLUMNS = 8
"""How many columns of padding are added."""
Groups = Callable[[], Sequence[tuple[int, ...]]]


@dataclass(frozen=True)
class Pass:
    """What one pass over the data gives, in the task's order; items are examples or judged tokens."""

    losses: Array
    """(examples,)"""
    counts: Array
    """(examples,) items of each."""
    labels: Array
    """(items,)"""
    predictions: Array
    """(items,)"""
    seconds: Array
    """(items,) the second likeliest classes; -1 for a regression."""
    margins: Array
    """(items,) how far apart the two greatest logits are; infinite for a regression."""
    logits: Array
    """(items, outputs); of a language model's the two greatest of the usual pass and that of the right token."""
    picks: Array
    """(items, 3) of which tokens a language model's are, else empty."""


@dataclass(frozen=True)
class Variant:
    """One setting of one factor, and what it gave."""

    factor: str
    setting: str
    found: Pass


@dataclass(frozen=True)
class _Padding:
    side: str = "right"
    columns: int = 0
    with_positions: bool = False


class _LeftOut(Exception):
    """A factor that cannot be set otherwise; its text says why."""


@dataclass(frozen=True)
class Measured:
    """All passes of a model over its data."""

    usual: Pass
    variants: tuple[Variant, ...]
    left_out: tuple[tuple[str, str], ...]


def measured(
    model: ModelUnderTest, encoded: Encoded, mask: HeadMask, where: str, factors: Sequence[str], seed: int
) -> Measured:
    """Run the model under `mask` the usual way, and in all ways that `factors` name."""
    work = _Work(model, encoded, mask, where, seed)
    usual = work.usual
    variants: list[Variant] = []
    left_out: list[tuple[str, str]] = []
    for factor in factors:
        try:
            for setting, run in _SETTINGS[factor](work):
                _add(variants, left_out, factor, setting, run)
        except _LeftOut as reason:
            left_out.append((factor, str(reason)))
    return Measured(usual, tuple(variants), tuple(left_out))


def _add(
    variants: list[Variant], left_out: list[tuple[str, str]], factor: str, setting: str, run: Callable[[], Pass]
) -> None:
    """Run one setting; note why, where the model cannot be run so."""
    try:
        variants.append(Variant(factor, setting, run()))
    except (_LeftOut, BertologyError) as error:
        left_out.append((f"{factor}, {setting}", str(error)))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        first = str(error).strip().split("\n")[0]
        what = "it does not fit in memory" if out_of_memory(error) else f"{type(error).__name__}: {first}"
        left_out.append((f"{factor}, {setting}", what))


class _Work:
    """A model, its data, and the usual pass over it."""

    def __init__(self, model: ModelUnderTest, encoded: Encoded, mask: HeadMask, where: str, seed: int) -> None:
        self.model, self.encoded, self.mask, self.where, self.seed = model, encoded, mask, where, seed
        self.usual = self.run("the usual way")

    def groups(self, tokens: int | None = None) -> Groups:
        return lambda: plan(self.model, self.encoded, Batching(tokens))

    def run(
        self,
        title: str,
        groups: Groups | None = None,
        padding: _Padding | None = None,
        model: ModelUnderTest | None = None,
    ) -> Pass:
        """One pass, of this model or of a copy of it."""
        model, groups, padding = model or self.model, groups or self.groups(), padding or _Padding()
        picks = self.usual.picks if hasattr(self, "usual") else None
        title = f"{self.where}, noise floor: {title}"

        def once() -> Pass:
            with torch.inference_mode(), model.frozen(), model.exactly(self.mask):
                return _passed(model, self.encoded, groups(), padding, picks, title)

        return within_memory("the noise floor", model, once)


def _passed(
    model: ModelUnderTest,
    encoded: Encoded,
    groups: Sequence[tuple[int, ...]],
    padding: _Padding,
    picks: Array | None,
    title: str,
) -> Pass:
    """Run the model on the data in these groups; raises NonFinite."""
    longest, rows = max_length(model), {}
    starts = None
    with tracked(title, len(encoded.examples)) as show:
        for group in groups:
            examples = [encoded.examples[at] for at in group]
            room = max(0, longest - max(len(example.ids) for example in examples))
            batch = collate(
                model, examples, group, padding.side, padding.with_positions, extra=min(padding.columns, room)
            )
            judged = judge(model, batch, encoded.objective)
            if picks is not None and picks.shape[1] and starts is None:
                starts = np.concatenate([[0], np.cumsum(_counts(encoded))])
            chosen = None
            if starts is not None and picks is not None:
                chosen = np.concatenate([picks[starts[at] : starts[at + 1]] for at in group])
            for at, row in zip(group, _split(judged, encoded, group, chosen, title), strict=True):
                rows[at] = row
            show(len(rows))
    ordered = [rows[at] for at in range(len(encoded.examples))]
    losses, counts, *items = zip(*ordered, strict=True)
    return Pass(np.array(losses), np.array(counts), *(np.concatenate(each) for each in items))


def _split(
    judged: Judged, encoded: Encoded, group: Sequence[int], chosen: Array | None, title: str
) -> list[tuple[float, int, Array, Array, Array, Array, Array, Array]]:
    """A batch's results, example by example."""
    labels, predictions = judged.labels, judged.predictions
    if encoded.objective == REGRESSION:
        labels, predictions = labels.double(), predictions.double()
        seconds, margins = torch.full_like(labels, -1), torch.full_like(labels, float("inf"))
        logits, picks = judged.logits.reshape(len(labels), -1), labels.new_zeros(len(labels), 0)
    else:
        best = judged.logits.topk(2, dim=-1)
        seconds = torch.where(best.indices[:, 0] == predictions, best.indices[:, 1], best.indices[:, 0])
        margins = best.values[:, 0] - best.values[:, 1]
        logits, picks = judged.logits, labels.new_zeros(len(labels), 0)
        if encoded.objective not in KEEPS_LOGITS:
            picks = torch.stack([predictions, seconds, labels], dim=-1)
            if chosen is not None:
                picks = torch.as_tensor(chosen, device=labels.device)
            logits = judged.logits.gather(1, picks)
    losses = judged.losses.double().cpu().numpy()
    for at, loss in zip(group, losses, strict=True):
        if not np.isfinite(loss):
            raise NonFinite("the loss", f"example {at} of {title}")
    if not bool(torch.isfinite(logits).all()):
        raise NonFinite("a logit", f"an example of {title}")
    counts = judged.counts.cpu().numpy()
    parts = [
        np.split(each.cpu().numpy(), np.cumsum(counts)[:-1])
        for each in (labels, predictions, seconds, margins.double(), logits.double(), picks)
    ]
    return list(zip(losses.tolist(), counts.tolist(), *parts, strict=True))


def _counts(encoded: Encoded) -> Array:
    """(examples,) judged items of each."""
    return np.array([items_of(example.labels) for example in encoded.examples])


Settings = Iterator[tuple[str, Callable[[], Pass]]]


def _batches(work: _Work) -> Settings:
    """One example at a time; a quarter and four times of the usual budget; and unlike lengths brought together."""
    if not can_batch(work.model.model):
        raise _LeftOut("the model takes one example at a time")
    usual = budget(work.model, work.encoded, Batching())
    yield "one example at a time", lambda: work.run("one example at a time", work.groups(1))
    for tokens in (max(2, usual // 4), 4 * usual):
        title = f"batches of {tokens} tokens"
        yield title, lambda tokens=tokens, title=title: work.run(title, work.groups(tokens))  # type: ignore[misc]
    yield "shuffled", lambda: work.run("shuffled", lambda: shuffled(work.model, work.encoded, work.seed))


def shuffled(model: ModelUnderTest, encoded: Encoded, seed: int) -> list[tuple[int, ...]]:
    """Groups within the usual budget, of examples in an order drawn with `seed`."""
    length, limit = lengths(encoded), budget(model, encoded, Batching())
    order = list(range(len(length)))
    random.Random(seed).shuffle(order)  # noqa: S311
    groups: list[list[int]] = []
    longest = 0
    for at in order:
        longest = max(longest, int(length[at]))
        if groups and longest * (len(groups[-1]) + 1) <= limit:
            groups[-1].append(at)
        else:
            groups.append([at])
            longest = int(length[at])
    return [tuple(group) for group in groups]


def _paddings(work: _Work) -> Settings:
    """More padding than there need be, on either side."""
    right = f"{_COLUMNS} more on the right"
    yield right, lambda: work.run(right, padding=_Padding("right", _COLUMNS))
    left = f"{_COLUMNS} more on the left"

    def on_the_left() -> Pass:
        try:
            with_positions = left_needs_positions(work.model, work.encoded.objective)
        except InvalidArgument:
            raise _LeftOut("the model is not made for it: it gives other results under left padding") from None
        return work.run(left, padding=_Padding("left", _COLUMNS, with_positions))

    yield left, on_the_left


def _backends(work: _Work) -> Settings:
    """The other attention implementation of transformers."""
    if work.model.attention_changed():
        raise _LeftOut("attention is changed (model.with_…_attention(…)), which another backend may not show")
    own = getattr(work.model.model.config, "_attn_implementation", None)

    def by(name: str) -> Pass:
        with attending_by(work.model.model, name):
            return work.run(f"{name} attention", padding=_Padding())

    for name in _BACKENDS:
        if name != own:
            yield f"{name} for {own}", lambda name=name: by(name)  # type: ignore[misc]


@contextmanager
def attending_by(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Another attention implementation for the length of the context; raises _LeftOut where the model has it not."""
    before = [(config, getattr(config, "_attn_implementation_internal", None)) for config in _configs(model)]
    try:
        with Quiet():
            try:
                model.set_attn_implementation(name)
            except (ValueError, ImportError, TypeError, AttributeError) as error:
                raise _LeftOut(str(error).strip().split("\n")[0]) from None
        if model.config._attn_implementation != name:
            raise _LeftOut(f"the model cannot be switched to {name}")
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _configs(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """The configurations of the model and all its parts."""
    waiting = [getattr(module, "config", None) for module in model.modules()]
    found: dict[int, PreTrainedConfig] = {}
    while waiting:
        config = waiting.pop()
        if isinstance(config, PreTrainedConfig) and id(config) not in found:
            found[id(config)] = config
            waiting += [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return list(found.values())


def _threads(work: _Work) -> Settings:
    """One, two and all threads, but those that are used anyway."""
    if work.model.device.type != "cpu":
        raise _LeftOut(f"the model runs on {work.model.device.type}")
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    usual = torch.get_num_threads()

    def with_threads(count: int, title: str) -> Pass:
        torch.set_num_threads(count)
        try:
            return work.run(title)
        finally:
            torch.set_num_threads(usual)

    others = sorted({1, 2, every} - {usual})
    for count in others:
        title = f"{count} thread{'s' if count > 1 else ''} for {usual}"
        yield title, lambda count=count, title=title: with_threads(count, title)  # type: ignore[misc]


def _dtypes(work: _Work) -> Settings:
    """Copies of the model in other dtypes, one after the other."""
    model = work.model
    if departs(model) or model.in_force() is None:
        raise _LeftOut("a copy would not have what is in force on the model: changed attention, skipped layers, hooks")
    if model.dtype not in _DTYPES:
        raise _LeftOut(f"weights are {model.dtype}")

    def in_dtype(name: str) -> Pass:
        twin = _copy(model, getattr(torch, name))
        if twin.heads != model.heads:
            raise _LeftOut("other heads are found in the copy")
        return work.run(name, model=twin)

    for name in _DTYPES[model.dtype]:
        yield name, lambda name=name: in_dtype(name)  # type: ignore[misc]


def _copy(model: ModelUnderTest, dtype: torch.dtype) -> ModelUnderTest:
    """A copy of the model as it was loaded, in another dtype."""
    memo, finish = without_contexts(model.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BertologyWarning)  # the model gave them when it was loaded
        twin = copy.deepcopy(model, memo)
    finish()
    twin.model.to(dtype=dtype)
    return twin


_SETTINGS: dict[str, Callable[[_Work], Settings]] = {
    BATCH: _batches,
    PADDING: _paddings,
    ATTENTION: _backends,
    THREADS: _threads,
    DTYPE: _dtypes,
}
