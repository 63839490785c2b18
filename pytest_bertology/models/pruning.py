"""Cut heads out of a model: a row map, a plan, and the proof that the cut model is the masked one.

A wrong layout can fit all shapes and be silently wrong. So no cut model is handed out that was not run beside the
masked one: what leaves every projection and the model's output must agree.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pytest_bertology.errors import BertologyError, CannotPrune, CopiedUnderMask, CutDiffers
from pytest_bertology.heads import Head, HeadMask
from pytest_bertology.models import state
from pytest_bertology.models.copies import own_tensors, structure_of, tie_again
from pytest_bertology.models.counts import TRIALS, Trial, counts
from pytest_bertology.models.edits import Columns, Edit, Rows, apply, hands_on
from pytest_bertology.models.layout import Layout, edits, layout
from pytest_bertology.models.modules import is_linear
from pytest_bertology.models.plan import PrunedLayer, PruningPlan
from pytest_bertology.models.proof import Reference, Seen
from pytest_bertology.models.reduced import HeadColumns
from pytest_bertology.models.rows import RowMap, row_maps, why_not_cut
from pytest_bertology.models.sites import Site

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest


def prune(model: ModelUnderTest, mask: HeadMask) -> PreTrainedModel:
    """A new model without the masked heads, that carries its plan in its configuration; `model` is left as it was.

    Raises CannotPrune, with the reason, where heads of these layers can only be masked, CutDiffers where the cut model
    was not the masked one.
    """
    damped = [head for head in mask.touched if head not in mask.masked]
    if damped:
        raise CannotPrune(_name(model), f"{damped[0]}", "its gate is between 0 and 1: a head is cut or kept")
    with state.evaluating(model.model):
        cut = _Cutting(model, mask)
        found = cut.run()
    own_tensors(found, model.model)
    return found


@dataclass(frozen=True)
class _Cut:
    """One site of which heads are to go."""

    site: Site
    rows: RowMap
    layout: Layout


class _Cutting:
    """One cut of one model."""

    def __init__(self, model: ModelUnderTest, mask: HeadMask) -> None:
        self.model = model
        self.live = model.model
        self.mask = mask
        self.sample = model.sample()
        with model.exactly(None):
            self.maps = dict(zip(model.sites, row_maps(self.live, model.sites, self.sample), strict=True))
        self.kept = {
            site: tuple(head for head in range(site.heads) if mask.gate(Head(site.layer, head, site.stack)) != 0.0)
            for site in model.sites
        }
        self.cuts = [
            _Cut(site, self.maps[site], layout(site, self.maps[site], self.kept[site]))
            for site in model.sites
            if len(self.kept[site]) < site.heads and self._can_be_cut(site)
        ]
        self._check_sharing()

    def run(self) -> PreTrainedModel:
        """Find, kind of attention by kind, which counts have to change; cut; prove; write the plan."""
        chosen: list[tuple[list[_Cut], Trial]] = []
        found: PreTrainedModel | None = None
        for cuts in self._kinds():
            rehearsed = [self._rehearsed(cut) for cut in cuts]
            trial, found = self._first_that_holds(rehearsed)
            chosen.append((cuts, trial))
        done = self._edits(chosen)
        if found is None or len(chosen) > 1 or any(cut.layout.empty for cut in self.cuts):
            found = self._cut_and_proven(done, self.mask)
        hollow = {cut.site for cuts, trial in chosen for cut in cuts if trial.hollow}
        self._plan(done, hollow).attach(found)
        return found

    # -- what can be cut -----------------------------------------------------------------------------------------------

    def _can_be_cut(self, site: Site) -> bool:
        """Raise CannotPrune, with the reason, where a site's heads can only be masked."""
        feeds = self.maps[site].feeds
        reason = why_not_cut(site, feeds, site.name in self.model.check.joint)
        if reason is None:
            modules = [site.projection, *(self.live.get_submodule(feed.name) for feed in feeds)]
            if state.offloaded(self.live) or any(m.weight.is_meta for m in modules):
                reason = "its weights are offloaded"
            elif not all(m.weight.is_floating_point() for m in modules):
                reason = "its weights are quantised"
            elif not all(is_linear(module) for module in modules):
                reason = "its rows belong to something else than a linear map"
        if reason is not None:
            raise CannotPrune(_name(self.model), site.name, reason)
        return True

    def _check_sharing(self) -> None:
        """Projections that several layers use must lose the same rows in all of them."""
        wanted: dict[int, tuple[str, Any]] = {}
        layouts = {cut.site: cut.layout for cut in self.cuts}
        for site, found in self.maps.items():
            plan = layouts.get(site)
            reads: list[tuple[str, Any]] = [(site.name, self.kept[site])]
            for feed in found.feeds:
                whole = tuple(range(len(feed.owners)))
                reads.append((feed.name, whole if plan is None else plan.rows(feed.owners)))
            for name, index in reads:
                weight: Any = self.live.get_submodule(name).weight
                other, before = wanted.setdefault(id(weight), (site.name, index))
                if before != index:
                    reason = f"it shares weights with {other}, of which other heads are kept: cut the same in both"
                    raise CannotPrune(_name(self.model), site.name, reason)

    # -- cutting -------------------------------------------------------------------------------------------------------

    def _kinds(self) -> list[list[_Cut]]:
        """The cuts by kind of attention module: what has to change in one has to change in the others."""
        kinds: dict[Any, list[_Cut]] = {}
        for cut in self.cuts:
            attention = self.live.get_submodule(cut.site.attention)
            kinds.setdefault((type(attention), len(cut.rows.feeds)), []).append(cut)
        return list(kinds.values())

    def _rehearsed(self, cut: _Cut) -> _Cut:
        """A layer that is to lose all heads, with one left: what no one reads would prove any count right."""
        if not cut.layout.empty:
            return cut
        return replace(cut, layout=layout(cut.site, cut.rows, (0,)))

    def _first_that_holds(self, cuts: Sequence[_Cut]) -> tuple[Trial, PreTrainedModel]:
        """The first trial under which these sites, cut alone, are the masked ones."""
        alone = HeadMask.without(
            self.model.heads,
            [
                Head(cut.site.layer, head, cut.site.stack)
                for cut in cuts
                for head in range(cut.site.heads)
                if head not in cut.layout.kept
            ],
        )
        reference = self._reference(alone)
        found: list[Exception] = []
        tried: list[tuple[Edit, ...]] = []
        for trial in TRIALS:
            done = self._edits([(cuts, trial)])
            if done in tried:
                continue
            tried.append(done)
            try:
                return trial, self._cut_and_proven(done, alone, reference)
            except CopiedUnderMask:
                raise
            except (BertologyError, RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
                found.append(_without_frames(error))
                gc.collect()  # the model that failed, before the next one is made
        differs = next((error for error in found if isinstance(error, CutDiffers)), None)
        if differs is not None:
            raise differs
        site = cuts[0].site.name
        raise CannotPrune(_name(self.model), site, f"the model does not run when they are cut ({found[0]})") from found[
            0
        ]

    def _edits(self, chosen: Iterable[tuple[Sequence[_Cut], Trial]]) -> tuple[Edit, ...]:
        done: dict[Edit, None] = {}
        changed: set[tuple[str, int]] = set()
        for cut, trial in ((cut, trial) for cuts, trial in chosen for cut in cuts):
            plan = replace(cut.layout, hollow=trial.hollow)
            own = edits(plan, cut.rows, self._hands_on(cut))
            for edit in (*own, *counts(self.live, plan, cut.rows, trial)):
                if isinstance(edit, Rows | Columns):
                    module = (edit.kind, id(self.live.get_submodule(edit.module)))
                    if module in changed:
                        continue  # layers share it, and lose the same of it
                    changed.add(module)
                done[edit] = None
        return tuple(done)

    def _hands_on(self, cut: _Cut) -> tuple[int, str | None] | None:
        """Where this layer returns a position bias that it made and later layers are given (T5), and its table."""
        attention = cut.site.attention
        if any(given.returned is not None for given in cut.rows.given):
            return None  # made by a layer before it
        inside = self.live.get_submodule(attention).named_modules(prefix=attention)
        before = [name for name, module in inside if isinstance(module, HeadColumns)]
        if before:
            return 0, before[0]  # of a model cut before: the place is known to it
        if hands_on(self.live.get_submodule(attention)):
            return None
        sources = [given.source for found in self.maps.values() for given in found.given]
        place = next((source[1] for source in sources if source is not None and source[0] == attention), None)
        tables = [t.name.removesuffix(".weight") for t in cut.rows.tensors if t.name.endswith(".weight")]
        tables = [t for t in tables if isinstance(self.live.get_submodule(t), nn.Embedding)]
        return None if place is None else (place, tables[0] if tables else None)

    def _cut_and_proven(
        self, done: Sequence[Edit], mask: HeadMask, reference: Reference | None = None
    ) -> PreTrainedModel:
        found = structure_of(self.live)
        apply(found, done)
        tie_again(found, self.live)
        self._prove(found, mask, reference or self._reference(mask))
        return found

    # -- the proof -----------------------------------------------------------------------------------------------------

    def _reference(self, mask: HeadMask) -> Reference:
        names = [site.name for site in self.model.sites]
        with torch.no_grad():
            with self.model.exactly(None):
                plain = Seen.of(self.live, names, self.sample)
            with self.model.exactly(mask):
                return Reference(plain, Seen.of(self.live, names, self.sample))

    def _prove(self, cut: PreTrainedModel, mask: HeadMask, reference: Reference) -> None:
        """The cut model is the masked one; and the mask moved something, unless all of its heads are idle."""
        moved = reference.check(cut, self.sample, _name(self.model))
        live = [head for head in mask.masked if head not in self.model.check.idle]
        if live and not moved:
            raise CutDiffers(_name(self.model), "the output", "the mask itself moves nothing, so nothing is proven")

    # -- the plan ------------------------------------------------------------------------------------------------------

    def _plan(self, done: Sequence[Edit], hollow: Collection[Site]) -> PruningPlan:
        layouts = {cut.site: cut.layout for cut in self.cuts}
        layers = []
        for site in self.model.sites:
            slots = layouts[site].slots if site in hollow else site.slots
            computed = (site.computed or site.heads) if slots else 0
            kept = self.kept[site]
            layers.append(
                PrunedLayer(site.stack, site.layer, site.heads, kept, site.name, site.attention, slots, computed)
            )
        if self.model.plan is None:
            return PruningPlan.of(self.live, layers, done)
        return self.model.plan.followed_by(self.live, {layer.projection: layer for layer in layers}, done)


def _without_frames(error: Exception) -> Exception:
    """An error, and those that it came from, without the frames that hold the model that failed."""
    part: BaseException | None = error
    while part is not None:
        part.__traceback__ = None
        part = part.__cause__ or part.__context__
    return error


def _name(model: ModelUnderTest) -> str:
    return type(model.model).__name__
