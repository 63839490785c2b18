"""What is to be taken out of hidden states, how it was found, and what a linear probe gets before and after."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pytest_bertology.errors import InvalidArgument, MalformedData
from pytest_bertology.files import written_whole
from pytest_bertology.measures.inlp import random_directions
from pytest_bertology.measures.leace import Array
from pytest_bertology.measures.relation_intervals import PairedDifference
from pytest_bertology.models.projection import FoundOn, Projection

_FORMAT = "pytest-bertology erasure 1"
_ARRAYS = ("mean", "left", "right")


@dataclass(frozen=True)
class LayerErasure:
    """What is to be taken out of one layer."""

    projection: Projection
    iterations: int
    """Classifiers whose directions are taken out; 1 of LEACE."""
    converged: bool
    """Whether INLP stopped because a classifier was no better than the majority class; True of LEACE."""
    majority: float
    """How often the majority class is right, on the judged part."""
    before: PairedDifference
    """How much more often a linear probe is right than the majority class, on the judged part, before."""
    after: PairedDifference
    """The same of a probe that is trained, and judged, on what is left."""

    @property
    def layer(self) -> int:
        """0 the embeddings, n what the n-th block gives."""
        return self.projection.layer

    @property
    def rank(self) -> int:
        """How many directions are taken out."""
        return self.projection.rank

    @property
    def accuracy_before(self) -> float:
        """Of a linear probe, on the judged part."""
        return self.majority + self.before.difference

    @property
    def accuracy_after(self) -> float:
        """Of a linear probe of what is left, on the judged part."""
        return self.majority + self.after.difference

    @property
    def was_there(self) -> bool:
        """Whether a linear probe beats the majority class before (the interval of the difference is above 0)."""
        return self.before.interval[0] > 0.0

    @property
    def is_there(self) -> bool:
        """Whether a linear probe beats the majority class after."""
        return self.after.interval[0] > 0.0

    def rest(self) -> str:
        """What is left to find, in words: nothing where all is erased."""
        ended = "" if self.converged else f"not converged after {self.iterations} classifiers"
        there = f"a probe still gets {self.accuracy_after:.4f}, majority {self.majority:.4f}" if self.is_there else ""
        return ", ".join(filter(None, (ended, there)))


@dataclass(frozen=True, eq=False, repr=False)
class Erasure:
    """What takes a property out of the hidden states of one layer or several: `with model.erasing(erasure):`."""

    model: str
    task: str
    """The name of the data that probes are judged on."""
    source: str
    """The name of the data that it is found on."""
    method: str
    """"leace" or "inlp"."""
    classes: tuple[str, ...]
    """The labels, by name."""
    level: str
    """"word", "span" or "text": what is labelled."""
    pooling: str
    """What stands for an item of several tokens."""
    trained_on: int
    """Items that it is found on."""
    judged_on: int
    """Items that probes are judged on."""
    confidence: float
    """Of the intervals."""
    seed: int
    layers: tuple[LayerErasure, ...]
    """In order; each found with those before in force."""
    found_on: FoundOn
    """The model, its weights, and what was in force on it: `model.erasing` refuses it for other weights."""

    def __repr__(self) -> str:
        at = ", ".join(
            f"layer {each.layer} (rank {each.rank}{f', {each.rest()}' if each.rest() else ''})" for each in self.layers
        )
        return f"Erasure({self.task} by {self.method}: {at})"

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The maps, one for each layer."""
        return tuple(each.projection for each in self.layers)

    @property
    def only(self) -> LayerErasure:
        """The one layer's; raises InvalidArgument where there are several."""
        if len(self.layers) > 1:
            raise InvalidArgument("layer", None, f"one of {[each.layer for each in self.layers]}: see .at(layer)")
        return self.layers[0]

    @property
    def rank(self) -> int:
        """How many directions are taken out of the one layer."""
        return self.only.rank

    def at(self, layer: int) -> LayerErasure:
        """What is taken out of a layer; raises InvalidArgument for one of which nothing is."""
        for each in self.layers:
            if each.layer == layer:
                return each
        raise InvalidArgument("layer", layer, f"one of {[each.layer for each in self.layers]}")

    def to_numpy(self, layer: int | None = None) -> Array:
        """(width, width) P of x ↦ x − P(x − μ), of the one layer or of `layer`."""
        return (self.only if layer is None else self.at(layer)).projection.to_numpy()

    def at_random(self, seed: int) -> tuple[Projection, ...]:
        """As many directions of each layer, drawn at random, orthonormal: the control of Elazar et al. (2021)."""
        found = []
        for own in self.projections:
            drawn = random_directions(own.mean, own.rank, (seed, own.layer))
            found.append(Projection(own.layer, drawn.mean, drawn.left, drawn.right, own.stack))
        return tuple(found)

    def table(self) -> str:
        """A line for each layer, aligned."""
        title = f"{self.task}, {len(self.classes)} classes, erased by {self.method} ({self.model})"
        head = f"{'layer':>5} {'rank':>5} {'runs':>5} {'majority':>9} {'before':>8} {'after':>8}"
        lines = [title, "", head]
        for each in self.layers:
            told = " still there" if each.is_there else "" if each.was_there else " was not there"
            ended = "" if each.converged else " not converged"
            lines.append(
                f"{each.layer:>5} {each.rank:>5} {each.iterations:>5} {each.majority:>9.4f} "
                f"{each.accuracy_before:>8.4f} {each.accuracy_after:>8.4f}{told}{ended}"
            )
        judged = f"accuracy of linear probes on {self.judged_on} {self.level}s of {self.task}"
        return "\n".join([*lines, "", f"{judged}; found on {self.trained_on} of {self.source}"])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a safetensors file, whole or not at all."""
        path = Path(path)
        arrays: dict[str, Array] = {}
        told = {name: value for name, value in vars(self).items() if name not in ("layers", "found_on")}
        layers: list[dict[str, Any]] = []
        for number, each in enumerate(self.layers):
            own = each.projection
            arrays |= {f"{number}.{name}": np.ascontiguousarray(getattr(own, name)) for name in _ARRAYS}
            kept = {name: value for name, value in vars(each).items() if name not in ("projection", "before", "after")}
            probes = {"before": asdict(each.before), "after": asdict(each.after)}
            layers.append({**kept, **probes, "layer": own.layer, "stack": own.stack})
        content = json.dumps({**told, "layers": layers, "found_on": asdict(self.found_on)})
        with written_whole(path) as temporary:
            save_file(arrays, temporary, metadata={"format": _FORMAT, "erasure": content})
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Erasure:
        """Read what `save` wrote; raises MalformedData for another file, OSError where there is none."""
        path = Path(path)
        with path.open("rb"):
            pass
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(f"it is no file of {_FORMAT!r}")
                told = json.loads(metadata["erasure"])
                layers = tuple(_layer(file, number, each) for number, each in enumerate(told.pop("layers")))
            found_on = told.pop("found_on")
            found_on = FoundOn(**{**found_on, "under": tuple(found_on["under"])})
            return cls(**{**told, "classes": tuple(told["classes"])}, layers=layers, found_on=found_on)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise MalformedData(str(path), f"it is no saved erasure ({error})") from error


def _layer(file: Any, number: int, told: dict[str, Any]) -> LayerErasure:
    arrays = {name: file.get_tensor(f"{number}.{name}") for name in _ARRAYS}
    projection = Projection(told.pop("layer"), stack=told.pop("stack"), **arrays)
    before, after = (_difference(told.pop(name)) for name in ("before", "after"))
    return LayerErasure(projection=projection, before=before, after=after, **told)


def _difference(told: dict[str, Any]) -> PairedDifference:
    return PairedDifference(**{**told, "interval": tuple(told["interval"])})
