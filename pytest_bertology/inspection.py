"""What a model's heads are, where they are gated, and what could be cut: the head map that `inspect` prints."""

from __future__ import annotations

import json
import os
import textwrap
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from pytest_bertology.errors import BertologyError, CannotGate, ModelNotFound, UnknownKind
from pytest_bertology.heads import HeadMap
from pytest_bertology.models.discovery import Discovery, discover
from pytest_bertology.models.kinds import auto_class, check_kind, kind_of_config, saved_class
from pytest_bertology.models.loading import from_source, load_model, place
from pytest_bertology.models.plan import plan_of
from pytest_bertology.models.quiet import Quiet
from pytest_bertology.models.rows import feeds, kv_heads, why_not_cut
from pytest_bertology.models.sampling import make_sample
from pytest_bertology.models.saving import follow_plan
from pytest_bertology.models.sites import Site
from pytest_bertology.models.state import evaluating
from pytest_bertology.models.under_test import ModelUnderTest

_PROVEN = 300_000_000
"""A model without weights gets random ones, and the proof that gates act, up to this many parameters."""
_RANDOM = 1_500_000_000
"""Up to this many it gets random ones where the meta device does not do."""
_HOW = {
    "interface": "contexts arrive as attention returns them",
    "gated": "contexts arrive multiplied by numbers of the model's own",
    "function": "the model calls softmax itself",
}


@dataclass(frozen=True)
class SiteReport:
    """One attention layer, as `inspect` shows it."""

    stack: str | None
    layer: int
    heads: int
    kv_heads: int | None
    """None where it could not be found out without weights."""
    width: int
    gated_at: str
    """Module path at whose input gates act."""
    found: str
    """"interface", "gated" or "function": see `Site.found`."""
    runs: int
    """How often one forward pass runs it."""
    cut: str
    """"yes" where every head has rows and columns of its own; else why not, or "unknown" without weights."""


@dataclass(frozen=True)
class Inspection:
    """The head map of a model."""

    source: str
    architecture: str
    kind: str
    parameters: int
    heads: HeadMap
    sites: tuple[SiteReport, ...]
    weights: str
    """Whose they were: "checkpoint", "random", or "none" (the meta device)."""
    proven: bool
    """Whether the proof that gates act was made (not without weights)."""
    dead: tuple[str, ...]
    silent: tuple[str, ...]
    per_example: bool | None
    ungated: tuple[tuple[str, str], ...]
    not_run: tuple[str, ...]
    removed: tuple[str, ...] = ()
    """Heads that were cut out, by their names in the uncut model."""

    def to_json(self) -> str:
        """All of it, as JSON."""
        content: dict[str, Any] = {**asdict(self), "heads": self.heads.to_jsonable()}
        return json.dumps(content, indent=1) + "\n"

    def lines(self) -> list[str]:
        """The report for people."""
        lines = [
            f"{self.architecture} ({self.kind}), {self.parameters / 1e6:,.1f} M parameters, from {self.source}",
            f"{len(self.heads)} heads: {self.heads.describe()}",
            *([f"cut: {len(self.removed)} heads are gone, {_names(self.removed)}"] if self.removed else []),
            *([] if not self.sites else [self._proof()]),
            "",
            *_table(self.sites),
            "",
        ]
        lines += [f"found {name}: {_HOW[name]}" for name in _HOW if any(site.found == name for site in self.sites)]
        if any(site.runs > 1 for site in self.sites):
            lines.append("layers that run more than once share weights: masking a head masks it in each of its runs")
        lines += [f"cannot be masked, outside the map: {name}: {reason}" for name, reason in self.ungated]
        if self.not_run:
            lines.append(
                f"did not run on the sample, so that heads there are not in the map: {', '.join(self.not_run)}"
            )
        if self.per_example is False:
            lines.append("examples of a batch cannot have masks of their own: importance runs them one by one")
        lines += _idle("dead (they write nothing)", self.dead) + _idle("silent (nothing reads them)", self.silent)
        return lines

    def _proof(self) -> str:
        if self.proven:
            weights = "" if self.weights == "checkpoint" else f" on {self.weights} weights"
            return f"gates proven{weights}: all open is the plain model, each head's gate takes away that head's share"
        return "heads found on the meta device, without weights: that gates act is proven when the weights are loaded"


def inspect_model(
    source: str | os.PathLike[str] | PreTrainedModel,
    *,
    kind: str | None = None,
    revision: str | None = None,
    device: str = "auto",
    config_only: bool = False,
    trust_remote_code: bool = False,
) -> Inspection:
    """Find the heads of a model: of a hub name, a folder, a `config.json` or a live model.

    Without weights (a bare configuration, or `config_only`) the model gets random ones, or is run on the meta device
    where it is large. Raises what `load_model` raises for a model that cannot be loaded or masked exactly.
    """
    if isinstance(source, PreTrainedModel):
        return _of_model(load_model(source, kind=kind), source.name_or_path or type(source).__name__, "checkpoint")
    name = os.fspath(source)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if not (config_only or Path(name).is_file() or _bare(Path(name))):
        return _of_model(load_model(name, kind=kind, device=device, **options), name, "checkpoint")
    if Path(name).is_file() and Path(name).suffix != ".json":
        raise ModelNotFound(name, "it is neither a folder nor a configuration (config.json)")
    with Quiet():
        config = from_source(AutoConfig, name, options)
        return _of_config(config, kind, name, device, trust_remote_code)


def _bare(folder: Path) -> bool:
    """Whether a folder holds a configuration and no weights of any kind."""
    weights = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
    return (folder / "config.json").is_file() and not any(file.suffix in weights for file in folder.iterdir())


def _of_config(config: PreTrainedConfig, kind: str | None, source: str, device: str, trusted: bool) -> Inspection:
    """A model of this configuration, with random weights or none."""
    own = saved_class(config) if kind is None else None
    kind = check_kind(kind) if kind is not None else _kind(config, source)
    with torch.device("meta"):
        blank = _build(config, kind, own, torch.bfloat16, trusted)
    size = sum(parameter.numel() for parameter in blank.parameters())
    if size > _PROVEN:
        try:
            return _report(blank, discover_blank(blank), source, kind, "none", None)
        except (BertologyError, RuntimeError, NotImplementedError) as error:
            if size > _RANDOM:
                reason = textwrap.shorten(str(error), 300)
                raise CannotGate(
                    type(blank).__name__,
                    "all layers",
                    f"its {size / 1e9:.1f} billion parameters are too many for random weights, and run without weights "
                    f"it does not show its heads ({reason}). Inspect the checkpoint itself",
                ) from error
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _build(config, kind, own, torch.float32, trusted).to(place(device)).eval()
    return _of_model(load_model(model, kind=kind), source, "random")


def _kind(config: PreTrainedConfig, source: str) -> str:
    """As the configuration says, or the bare encoder."""
    try:
        return kind_of_config(config, source)
    except UnknownKind:
        if getattr(config, "architectures", None):
            raise
        return "encoder"


def _build(config: PreTrainedConfig, kind: str, own: Any, dtype: torch.dtype, trusted: bool) -> PreTrainedModel:
    """A model of the class it was saved as, or that of its kind; raises ModelNotFound where that cannot be made."""
    try:
        if own is not None:
            model: PreTrainedModel = own._from_config(config, dtype=dtype)
        else:
            model = auto_class(kind).from_config(config, dtype=dtype, trust_remote_code=trusted)
    except Exception as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 240)
        name = f"{config.model_type} as {own.__name__ if own is not None else kind}"
        raise ModelNotFound(name, f"its configuration makes no model ({reason})") from error
    follow_plan(model, None)  # of a cut model
    return model.eval()


def discover_blank(model: PreTrainedModel) -> Discovery:
    """The heads of a model on the meta device."""
    plan = plan_of(model)
    if plan is None:
        return discover(model, make_sample(model))
    found = discover(model, make_sample(model), plan.headless)
    return replace(found, sites=plan.placed(found.sites), heads=plan.heads)


def _of_model(model: ModelUnderTest, source: str, weights: str) -> Inspection:
    return _report(model.model, model, source, model.kind, weights, model)


def _report(
    model: PreTrainedModel,
    found: Discovery | ModelUnderTest,
    source: str,
    kind: str,
    weights: str,
    proven: ModelUnderTest | None,
) -> Inspection:
    plan = plan_of(model)
    return Inspection(
        source=source,
        architecture=type(model).__name__,
        kind=kind,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        heads=found.heads,
        sites=tuple(_sites(found.sites, proven)),
        weights=weights,
        proven=proven is not None,
        dead=tuple(map(str, proven.check.dead)) if proven else (),
        silent=tuple(map(str, proven.check.silent)) if proven else (),
        per_example=proven.check.per_example if proven else None,
        ungated=found.ungated,
        not_run=found.not_run,
        removed=tuple(map(str, plan.removed)) if plan is not None else (),
    )


def _sites(sites: tuple[Site, ...], proven: ModelUnderTest | None) -> list[SiteReport]:
    fed: list[Any] = [None] * len(sites)
    if proven is not None:
        with evaluating(proven.model):
            fed = list(feeds(proven.model, sites, proven.sample()))
    reports = []
    weights = Counter(id(getattr(site.projection, "weight", site)) for site in sites)
    for site, feed in zip(sites, fed, strict=True):
        cut, groups = "unknown", site.kv_heads or None
        if proven is not None:
            groups = kv_heads(site, feed)
            cut = why_not_cut(site, feed, site.name in proven.check.joint) or "yes"
            if cut == "yes" and weights[id(getattr(site.projection, "weight", site))] > 1:
                cut = "only together: its weights are tied to another layer's"
        reports.append(
            SiteReport(site.stack, site.layer, site.heads, groups, site.width, site.name, site.found, site.calls, cut)
        )
    return reports


def _table(sites: tuple[SiteReport, ...]) -> list[str]:
    """The sites in columns; stacks and runs only where there is something to tell."""
    stacked, again = any(site.stack for site in sites), any(site.runs > 1 for site in sites)
    head = ["layer", "heads", "KV heads", "width", "gated at the input of", "found", "can be cut"]
    rows = [
        [
            str(site.layer),
            str(site.heads),
            str(site.kv_heads or "?"),
            str(site.width),
            site.gated_at,
            site.found,
            site.cut,
        ]
        for site in sites
    ]
    if stacked:
        head, rows = ["stack", *head], [[site.stack or "", *row] for site, row in zip(sites, rows, strict=True)]
    if again:
        head, rows = (
            [*head[:-1], "runs", head[-1]],
            [[*row[:-1], str(site.runs), row[-1]] for site, row in zip(sites, rows, strict=True)],
        )
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]


def _names(heads: tuple[str, ...]) -> str:
    return " ".join(heads[:24]) + (" …" if len(heads) > 24 else "")


def _idle(what: str, heads: tuple[str, ...]) -> list[str]:
    return [f"{what} on the sample: {' '.join(heads)}"] if heads else []
