"""The plan of a cut model: which heads are left, and the edits that turn a model of its configuration into it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from pytest_bertology.errors import InvalidPlan
from pytest_bertology.heads import Head, HeadMap
from pytest_bertology.models.edits import Edit, apply, from_jsonable, to_jsonable
from pytest_bertology.models.sites import Site

SCHEMA = "pytest-bertology pruned model 1"
ATTRIBUTE = "pytest_bertology"
"""Where a cut model's configuration keeps its plan."""
SEAL = "pytest_bertology_plan"
"""The part of a cut model that says, among its weights, which plan they were cut by."""
NOTE = (
    "Heads or units were cut out of this model. Import pytest_bertology.models before from_pretrained; with "
    "ignore_mismatched_sizes its weights would be drawn at random."
)


@dataclass(frozen=True)
class PrunedLayer:
    """One attention layer of the model before it was cut, and what is left of it."""

    stack: str | None
    layer: int
    heads: int
    """Query heads before."""
    kept: tuple[int, ...]
    """Those left, by their numbers before."""
    projection: str
    """Module path of what reads the heads."""
    attention: str
    slots: tuple[int, ...] = ()
    """Where the layer goes on computing `computed` heads: which of them those kept are. The others have no weights."""
    computed: int = 0


@dataclass(frozen=True, repr=False)
class PruningPlan:
    """All that was cut out of a model, however many times it was."""

    architecture: str
    """The class whose module paths the edits name."""
    layers: tuple[PrunedLayer, ...]
    """All attention layers, in the order of the head map."""
    edits: tuple[Edit, ...]
    prefix: str
    """Where the base model is within that class; "" for the base model itself, or where the plan is of the whole."""
    whole: bool
    """Whether something is cut outside the base model: then no other class can follow the plan."""
    shapes: tuple[tuple[str, str], ...]
    """The weights of the cut modules, and the shapes that they had before, "64x64"."""
    config: tuple[tuple[str, Any], ...]
    """What the configuration, which stays the uncut model's, says of layers, heads and sizes."""

    @classmethod
    def of(cls, model: PreTrainedModel, layers: Sequence[PrunedLayer], edits: Sequence[Edit]) -> PruningPlan:
        """The plan of a first cut of `model`, which has its weights still."""
        prefix = base_of(model)
        paths = [path for edit in edits for path in _paths(edit)]
        whole = bool(prefix) and not all(path.startswith(f"{prefix}.") for path in paths)
        prefix = "" if whole else prefix
        shapes = tuple(_shapes(model, edits).items())
        sizes = tuple(sorted(_sizes(model.config).items()))
        return cls(type(model).__name__, tuple(layers), tuple(edits), prefix, whole, shapes, sizes)

    @property
    def original(self) -> HeadMap:
        """The head map of the uncut model."""
        return self._map([layer.heads for layer in self.layers])

    @property
    def heads(self) -> HeadMap:
        """The head map of the cut model, layers without a head among it."""
        counts = self._map([len(layer.kept) for layer in self.layers])
        return HeadMap(counts.to_stacks(), self.kept) if self.removed else counts

    @property
    def kept(self) -> tuple[Head, ...]:
        """The heads that are left, by their names in the uncut model, in the order of `heads`."""
        return tuple(Head(layer.layer, head, layer.stack) for layer in self.layers for head in layer.kept)

    @property
    def removed(self) -> tuple[Head, ...]:
        """The heads that are gone, by their names in the uncut model."""
        kept = set(self.kept)
        return tuple(head for head in self.original if head not in kept)

    @property
    def headless(self) -> frozenset[str]:
        """Module paths of projections and attention modules that are left without a head."""
        empty = [layer for layer in self.layers if not layer.kept]
        return frozenset(path for layer in empty for path in (layer.projection, layer.attention))

    @property
    def seal(self) -> bytes:
        """Sixteen bytes that no other plan has, whatever class of the same base model it is for."""

        def name(path: str) -> str:
            return path.removeprefix(f"{self.prefix}.") if self.prefix else path

        content = [
            [to_jsonable(edit) for edit in (_renamed(edit, name) for edit in self.edits) if edit is not None],
            [[layer.stack, layer.layer, layer.heads, list(layer.kept)] for layer in self.layers],
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()[:16]

    def attach(self, model: PreTrainedModel) -> None:
        """Write the plan into the configuration of the cut model, and its seal among the weights."""
        setattr(model.config, ATTRIBUTE, self.to_jsonable())
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        holder = nn.Module()
        holder.register_buffer("seal", torch.tensor(list(self.seal), dtype=torch.uint8, device=device))
        model.get_submodule(self.prefix).add_module(SEAL, holder.train(model.training))

    def check_seal(self, model: PreTrainedModel, missing: Collection[str]) -> None:
        """Raise InvalidPlan where weights that were just loaded were not cut by this plan."""
        holder: Any = model.get_submodule(f"{self.prefix}.{SEAL}".lstrip("."))
        absent = any(SEAL in name.split(".") for name in missing)
        if absent or (not holder.seal.is_meta and bytes(holder.seal.tolist()) != self.seal):
            raise InvalidPlan(
                "the weights beside it were not cut by it: config.json is another checkpoint's, or was changed. "
                "Restore the one that was saved with them"
            )

    def _map(self, counts: Sequence[int]) -> HeadMap:
        stacks: dict[str | None, list[int]] = {}
        for layer, count in zip(self.layers, counts, strict=True):
            stacks.setdefault(layer.stack, []).append(count)
        return HeadMap(stacks)

    def placed(self, sites: Sequence[Site]) -> tuple[Site, ...]:
        """The sites found in the cut model, named as its head map names them; raises InvalidPlan where they differ."""
        found = {site.name: site for site in sites}
        placed = []
        for layer in self.layers:
            site = found.pop(layer.projection, None)
            if not layer.kept:
                continue
            if site is None or site.heads != (layer.computed or len(layer.kept)):
                count = "no heads" if site is None else f"{site.heads} heads"
                raise InvalidPlan(f"{layer.projection} has {count}, and must have {len(layer.kept)}")
            placed.append(
                replace(
                    site,
                    layer=layer.layer,
                    stack=layer.stack,
                    heads=len(layer.kept),
                    slots=layer.slots,
                    computed=layer.computed,
                )
            )
        if found:
            raise InvalidPlan(f"it does not know the heads of {', '.join(found)}")
        return tuple(placed)

    def followed_by(
        self, model: PreTrainedModel, kept: Mapping[str, PrunedLayer], edits: Sequence[Edit]
    ) -> PruningPlan:
        """This plan, and another cut of `model`: per projection what is kept, heads by their present numbers."""
        layers = tuple(
            replace(
                layer,
                kept=tuple(layer.kept[i] for i in kept[layer.projection].kept),
                slots=kept[layer.projection].slots,
                computed=kept[layer.projection].computed,
            )
            if layer.projection in kept
            else layer
            for layer in self.layers
        )
        shapes = _shapes(model, edits) | dict(self.shapes)  # what was cut before had its first shape before that
        return replace(self, layers=layers, edits=(*self.edits, *edits), shapes=tuple(shapes.items()))

    def without_blocks(self, kept: Mapping[str, Sequence[int]], config: PreTrainedConfig) -> PruningPlan:
        """The plan of the model of which only these children of its module lists are left, with its configuration."""
        place = {
            f"{container}.{old}.": f"{container}.{new}."
            for container, blocks in kept.items()
            for new, old in enumerate(blocks)
        }

        def name(path: str) -> str | None:
            if not any(path.startswith(f"{container}.") for container in kept):
                return path
            return next((new + path[len(old) :] for old, new in place.items() if f"{path}.".startswith(old)), None)

        numbers: dict[str | None, int] = {}
        layers = []
        for layer in filter(None, (_named(layer, name) for layer in self.layers)):
            numbers[layer.stack] = numbers.get(layer.stack, -1) + 1
            layers.append(replace(layer, layer=numbers[layer.stack]))
        edits = [_renamed(edit, name) for edit in self.edits]
        shapes = [(name(path), shape) for path, shape in self.shapes]
        return replace(
            self,
            layers=tuple(layers),
            edits=tuple(edit for edit in edits if edit is not None),
            shapes=tuple((path, shape) for path, shape in shapes if path is not None),
            config=tuple(sorted(_sizes(config).items())),
        )

    def for_class(self, model: PreTrainedModel) -> PruningPlan:
        """This plan with the module paths that `model`, of another class with the same base model, has."""
        prefix = base_of(model)
        if self.whole and type(model).__name__ != self.architecture:
            raise InvalidPlan(f"it cuts parts that only a {self.architecture} has; load it as that")
        if self.whole or prefix == self.prefix:
            return self

        def name(path: str) -> str:
            below = path.removeprefix(f"{self.prefix}.") if self.prefix else path
            return f"{prefix}.{below}" if prefix else below

        edits = tuple(edit for edit in (_renamed(edit, name) for edit in self.edits) if edit is not None)
        layers = tuple(layer for layer in (_named(layer, name) for layer in self.layers) if layer is not None)
        shapes = tuple((name(path), shape) for path, shape in self.shapes)
        return replace(self, edits=edits, layers=layers, prefix=prefix, shapes=shapes)

    def apply(self, model: PreTrainedModel) -> None:
        """Cut a model that was built from the uncut configuration; raises InvalidPlan where it is another model."""
        now = _sizes(model.config)
        changed = [
            f"{name} is {now.get(name)} and was {value}" for name, value in self.config if now.get(name) != value
        ]
        if changed:
            raise InvalidPlan(f"the configuration is not the one it was made for: {', '.join(changed)}")
        found = {name: "x".join(map(str, tensor.shape)) for name, tensor in _tensors(model)}
        for name, shape in self.shapes:
            if found.get(name) != shape:
                raise InvalidPlan(
                    f"it was made for a {self.architecture} whose {name} is {shape}; this {type(model).__name__} has "
                    f"{found.get(name, 'none')}: the plan is another model's"
                )
        apply(model, self.edits)

    # -- as plain data -------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"PruningPlan({self.architecture}, {len(self.removed)} of {len(self.original)} heads removed)"

    def to_jsonable(self) -> dict[str, Any]:
        """Plain data, with a digest of itself."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "note": NOTE,
            "architecture": self.architecture,
            "layers": [_layer_to_jsonable(layer) for layer in self.layers],
            "edits": [to_jsonable(edit) for edit in self.edits],
            "prefix": self.prefix,
            "whole": self.whole,
            "shapes": dict(self.shapes),
            "config": dict(self.config),
            "versions": {"transformers": transformers.__version__, "torch": str(torch.__version__)},
        }
        return {**content, "digest": _digest(content)}

    @classmethod
    def from_jsonable(cls, content: object) -> PruningPlan:
        """What `to_jsonable` made; raises InvalidPlan for anything else, and where it was changed."""
        if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, Mapping) else type(content).__name__
            raise InvalidPlan(f"its schema is {found!r}; this version reads {SCHEMA!r}")
        own = {name: value for name, value in content.items() if name not in ("digest", "weights")}
        if content.get("digest") != _digest(own):
            raise InvalidPlan(
                "it was changed after it was written: its digest does not fit. Restore the config.json that was saved "
                "with the weights"
            )
        layers = tuple(map(_layer_from_jsonable, own["layers"]))
        edits = tuple(from_jsonable(edit) for edit in own["edits"])
        return cls(
            own["architecture"],
            layers,
            edits,
            own["prefix"],
            own["whole"],
            *map(_pairs, (own["shapes"], own["config"])),
        )


def plan_of(model: nn.Module) -> PruningPlan | None:
    """The plan that a cut model carries in its configuration, or None for a model that was not cut."""
    content = getattr(getattr(model, "config", None), ATTRIBUTE, None)
    return None if content is None else PruningPlan.from_jsonable(content)


def base_of(model: PreTrainedModel) -> str:
    """The module path of a model's base model; "" where it is one itself."""
    return "" if model.base_model is model else str(model.base_model_prefix)


def _tensors(model: PreTrainedModel) -> list[tuple[str, Any]]:
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _shapes(model: PreTrainedModel, edits: Sequence[Edit]) -> dict[str, str]:
    """The tensors that the edits touch, and their shapes."""
    touched = {path for edit in edits for path in _paths(edit)}
    return {
        name: "x".join(map(str, tensor.shape))
        for name, tensor in _tensors(model)
        if name in touched or name.rpartition(".")[0] in touched
    }


def _sizes(config: Any, path: str = "") -> dict[str, Any]:
    """The type and the numbers of a configuration that say how a model is built, those of its parts among them."""
    found: dict[str, Any] = {f"{path}model_type": config.model_type}
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            found |= _sizes(value, f"{path}{name}.")
        elif type(value) is int and any(part in name for part in _BUILT) and "vocab" not in name:
            found[f"{path}{name}"] = value
    return found


_BUILT = ("head", "layer", "size", "dim", "embd", "d_model", "d_kv", "d_ff")


def _pairs(content: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(content.items()))


def _layer_to_jsonable(layer: PrunedLayer) -> dict[str, Any]:
    """Slots only where there are some."""
    content = {**asdict(layer), "kept": list(layer.kept), "slots": list(layer.slots)}
    return content if layer.slots else {k: v for k, v in content.items() if k not in ("slots", "computed")}


def _layer_from_jsonable(content: Mapping[str, Any]) -> PrunedLayer:
    lists: dict[str, Any] = {name: tuple(content.get(name, ())) for name in ("kept", "slots")}
    return PrunedLayer(**{**content, **lists})


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _paths(edit: Edit) -> list[str]:
    """The module paths that an edit names."""
    return [vars(edit)[key] for key in ("module", "tensor", "table") if vars(edit).get(key) is not None]


def _renamed(edit: Edit, name: Any) -> Edit | None:
    values = vars(edit)
    changes = {key: name(values[key]) for key in ("module", "tensor", "table") if values.get(key)}
    return None if None in changes.values() else replace(edit, **changes)


def _named(layer: PrunedLayer, name: Any) -> PrunedLayer | None:
    projection, attention = name(layer.projection), name(layer.attention)
    return None if projection is None else replace(layer, projection=projection, attention=attention)
