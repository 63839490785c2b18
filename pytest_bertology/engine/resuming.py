"""Whether a model's forward passes can be resumed in the middle: seen by trying, layer by layer, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pytest_bertology.engine.batching import Batch, collate
from pytest_bertology.engine.encoding import IGNORED, Encoded, Example, lengths
from pytest_bertology.engine.memory import note_batch
from pytest_bertology.engine.objectives import judge
from pytest_bertology.engine.reading import LANGUAGE, needed_rows
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.prefix import CannotResume, Layers, Recording, find_layers, recorded, resumed
from pytest_bertology.models.sampling import can_batch

_SHORT = 9
"""Tokens of the longer of the two examples that ways are tried on."""
_CLOSE = {"float64": 1e-12, "float32": 4e-6}


@dataclass(frozen=True)
class Way:
    """How a model's sweeps are run."""

    layers: Layers | None
    """What can be skipped; None: every mask takes a whole forward pass."""
    contexts: tuple[bool, ...]
    """Per site, whether its own attention can be taken from the recording too."""
    stacks: bool
    """Whether several masks may share a batch."""
    narrows: bool = False
    """Whether the last layer need only be computed at the tokens that are read."""
    queries: tuple[nn.Module, ...] = ()
    """Linear maps of that layer that need only be computed there too."""
    gathers: bool = False
    """Whether a language model's output embedding need only be applied at the tokens that are judged."""
    last: Any = field(default=None, repr=False)
    """What the last layer gave once: the form of its result."""
    reason: str = ""
    """Why nothing is skipped."""


_known: WeakKeyDictionary[ModelUnderTest, dict[str, Way]] = WeakKeyDictionary()


def way_of(model: ModelUnderTest, encoded: Encoded) -> Way:
    """How sweeps of a model are run, found out once for each kind of task on two short examples of its own."""
    stacks = model.check.per_example and can_batch(model.model)
    if model.altered():
        return Way(None, (), stacks, reason="hooks of others are on the model")
    known = _known.setdefault(model, {})
    if encoded.objective not in known:
        try:
            known[encoded.objective] = _find(model, encoded, stacks)
        except Exception as error:  # noqa: BLE001 - examples that are cut short may be none to the model
            reason = f"it fails on examples cut short ({type(error).__name__}: {error})"
            known[encoded.objective] = Way(None, (), stacks=False, reason=reason)
    return known[encoded.objective]


def _find(model: ModelUnderTest, encoded: Encoded, stacks: bool) -> Way:
    batch = two_examples(model, encoded)
    reason = ""
    try:
        layers = find_layers(model, lambda: model.model(**batch.inputs), *batch.inputs["input_ids"].shape)
        for each in (False, True):
            try:
                return _tried(_Trial(model, encoded.objective, batch, replace(layers, each=each)), stacks)
            except CannotResume as error:
                reason = str(error)
    except CannotResume as error:
        reason = str(error)
    return Way(None, (), stacks and _stacks_whole(model, encoded.objective, batch), reason=reason)


def _stacks_whole(model: ModelUnderTest, objective: str, batch: Batch) -> bool:
    """Whether two masks in one batch give what each of them gives alone, where every pass is a whole one."""
    trial = _Trial(model, objective, batch, None)
    return all(trial.stacks(site, context=False) for site in {0, len(model.sites) - 1})


def _tried(trial: _Trial, stacks: bool) -> Way:
    """What a trial shows can be left out; raises CannotResume."""
    model, objective, layers = trial.model, trial.objective, trial.layers
    fed = trial.fed()
    contexts = tuple(fed[site] and trial.resumes(site, context=True) for site in range(len(model.sites)))
    for site, context in enumerate(contexts):
        if not context and not trial.resumes(site, context=False):
            raise CannotResume(f"{model.sites[site].attention}: resumed there, the model gives other results")
    ends = {site: contexts[site] for site in {0, len(model.sites) // 2, len(model.sites) - 1}}
    stacks = stacks and all(trial.stacks(site, context) for site, context in ends.items())
    gathers = objective in LANGUAGE and model.model.get_output_embeddings() is not None
    gathers = gathers and all(trial.gathers(site, context) for site, context in ends.items())
    rows = needed_rows(model, layers, trial.recording.results[-1], trial.batch, objective)
    narrows = rows is not None and all(trial.narrows(site, context, rows) for site, context in ends.items())
    queries = trial.queries(rows, contexts[0]) if narrows and rows is not None else ()
    return Way(layers, contexts, stacks, narrows, queries, gathers, trial.recording.results[-1])


def two_examples(model: ModelUnderTest, encoded: Encoded) -> Batch:
    """Two examples of unlike lengths, cut short: with padding, and not as many as tokens."""
    length = lengths(encoded)
    first = int(length.argmin())
    others = [i for i in range(len(length)) if length[i] > max(length[first], 2)]
    second = min(others, key=lambda i: (int(length[i]), i), default=first)
    chosen = ((first, _SHORT - 2), (second, _SHORT)) if can_batch(model.model) else ((second, _SHORT),)
    examples = [_cut(encoded.examples[i], size) for i, size in chosen]
    return collate(model, examples, [i for i, _ in chosen])


def _cut(example: Example, size: int) -> Example:
    """At most so many tokens: the first and, for what stands at the end, the last two."""
    if len(example.ids) <= size:
        return example

    def short(row: Any) -> Any:
        return (*row[: size - 2], *row[-2:]) if isinstance(row, tuple) else row

    cut = Example(short(example.ids), short(example.types), short(example.labels))
    judged = not isinstance(cut.labels, tuple) or any(label != IGNORED for label in cut.labels)
    return cut if judged else example


class _Trial:
    """Heads of one attention layer after the other masked, with and without the layers below it."""

    def __init__(self, model: ModelUnderTest, objective: str, batch: Batch, layers: Layers | None) -> None:
        self.model, self.objective, self.batch = model, objective, batch
        self.recording = Recording()
        if layers is None:
            return
        self.layers = layers
        with recorded(model, layers) as self.recording:
            self._run([None] * len(model.sites))
        self.whole = [self._run(self._closed(site)) for site in range(len(model.sites))]
        # What layers keep to themselves, and give to others behind their backs, is something else from here on.
        self._run([torch.zeros(site.heads) for site in model.sites])

    def resumes(self, site: int, *, context: bool) -> bool:
        """Whether a pass resumed at a site, half of its heads masked, is the whole pass bit for bit."""
        shorter = self._resumed(site, self._closed(site), 1, context)
        return shorter is not None and self._same(self.whole[site], shorter, exact=self.model.device.type == "cpu")

    def fed(self) -> list[bool]:
        """Per site, whether all linear maps inside its attention have the contexts as their derivable result.

        One that has not, such as an indexer that chooses tokens, may choose for other layers too.
        """
        made: dict[int, list[Tensor]] = {}
        contexts: dict[int, Tensor] = {}

        def note(at: int, module: nn.Module, args: Any, result: Tensor) -> Tensor:
            # Not a leaf, to which a model may not write.
            made.setdefault(at, []).append(result if result.requires_grad else result.detach().requires_grad_().clone())
            return made[at][-1]

        def arrive(at: int, module: nn.Module, args: Any, kwargs: Any) -> None:
            contexts[at] = self.model.sites[at].context(args, kwargs)

        with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
            for at, site in enumerate(self.model.sites):
                for module in self.layers.feeders[at]:
                    stack.callback(module.register_forward_hook(partial(note, at)).remove)
                hook = site.projection.register_forward_pre_hook(partial(arrive, at), with_kwargs=True)
                stack.callback(hook.remove)
            inputs = {name: tensor.clone() for name, tensor in self.batch.inputs.items()}
            try:
                self.model.model(**inputs)
                return [self._derivable(contexts[at], made.get(at, [])) for at in range(len(self.model.sites))]
            except Exception:  # noqa: BLE001 - a model that cannot be derived
                return [False] * len(self.model.sites)

    def _derivable(self, context: Tensor, results: list[Tensor]) -> bool:
        if not results or not context.requires_grad:
            return not results
        slopes = torch.autograd.grad(context.sum(), results, allow_unused=True, retain_graph=True)
        return all(slope is not None for slope in slopes)

    def stacks(self, site: int, context: bool) -> bool:
        """Whether two masks in one batch give what each of them gives alone."""
        heads = self.model.sites[site].heads
        rows = torch.ones(2, heads)
        rows[0, : (heads + 1) // 2] = rows[1, heads // 2 :] = 0.0
        each = [self._run(self._gates(site, row)) for row in rows]
        count = len(self.batch.positions)
        together = self._resumed(site, self._gates(site, rows.repeat_interleave(count, dim=0)), 2, context)
        return together is not None and self._same(torch.cat(each), together, exact=False)

    def gathers(self, site: int, context: bool) -> bool:
        """Whether logits of the judged tokens alone are those of all tokens."""
        fewer = self._resumed(site, self._closed(site), 1, context, gather=True)
        return fewer is not None and self._same(self.whole[site], fewer, exact=False)

    def narrows(self, site: int, context: bool, rows: Tensor) -> bool:
        """Whether the last layer at these tokens alone gives the logits of the whole."""
        fewer = self._resumed(site, self._closed(site), 1, context, rows=rows)
        return fewer is not None and self._same(self.whole[site], fewer, exact=False)

    def queries(self, rows: Tensor, context: bool) -> tuple[nn.Module, ...]:
        """The linear maps of the last layer that give the same logits when computed at these tokens alone."""
        first = min(range(len(self.model.sites)), key=self.layers.order.__getitem__)
        last = self.layers.blocks[-1].sites[0]
        if first == last:
            return ()
        gates = self._closed(first)
        whole = self._resumed(first, gates, 1, context, rows=rows)
        found = []
        for module in self.layers.feeders[last]:
            fewer = self._resumed(first, gates, 1, context, rows=rows, queries=(module,))
            if whole is not None and fewer is not None and self._same(whole, fewer, exact=False):
                found.append(module)
        return tuple(found)

    def _closed(self, site: int) -> list[Tensor | None]:
        """Half of a site's heads masked: one alone may be dead, and show nothing."""
        heads = self.model.sites[site].heads
        gate = torch.ones(heads)
        gate[: (heads + 1) // 2] = 0.0
        return self._gates(site, gate)

    def _gates(self, site: int, gate: Tensor) -> list[Tensor | None]:
        gates: list[Tensor | None] = [None] * len(self.model.sites)
        gates[site] = gate
        return gates

    def _run(self, gates: list[Tensor | None], copies: int = 1, *, gather: bool = False) -> Tensor:
        with self.model.gated(gates):
            return judge(self.model, repeated(self.batch, copies), self.objective, gather=gather).logits

    def _resumed(
        self,
        site: int,
        gates: list[Tensor | None],
        copies: int,
        context: bool,
        *,
        rows: Tensor | None = None,
        queries: Sequence[nn.Module] = (),
        gather: bool = False,
    ) -> Tensor | None:
        options: dict[str, Any] = {"context": context, "rows": rows, "queries": queries}
        try:
            if not self.recording.results:
                return self._run(gates, copies, gather=gather)
            with resumed(self.model, self.layers, self.recording, site, copies, **options):
                return self._run(gates, copies, gather=gather)
        except Exception:  # noqa: BLE001 - whatever the model makes of it: it is not run this way
            return None

    def _same(self, one: Tensor, other: Tensor, *, exact: bool) -> bool:
        if one.shape != other.shape:
            return False
        if exact:
            return torch.equal(one, other)
        limit = _CLOSE.get(self.model.dtype, 2e-2) * max(1.0, float(one.abs().max()))
        return bool((one - other).abs().max() <= limit)


def repeated(batch: Batch, copies: int) -> Batch:
    """The same examples several times, one copy after the other."""
    if copies == 1:
        return batch
    note_batch(copies * len(batch.positions), batch.inputs["input_ids"].shape[1])
    inputs = {name: tensor.repeat(copies, *(1,) * (tensor.ndim - 1)) for name, tensor in batch.inputs.items()}
    labels = batch.labels.repeat(copies, *(1,) * (batch.labels.ndim - 1))
    return Batch(batch.positions * copies, inputs, labels)
