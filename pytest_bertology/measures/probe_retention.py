"""How much of what a probe finds is left when heads are masked: a new probe on the states of the masked model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_bertology.engine.encoding import encode
from pytest_bertology.errors import InvalidArgument, LabelMismatch, NothingToJudge, UndefinedScore, WrongTaskKind
from pytest_bertology.heads import Head, HeadLike, HeadMask, HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model_and_task
from pytest_bertology.measures.attention import attention_statistics
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.measures.probing import probe
from pytest_bertology.measures.probing_data import PARTS, TESTED, ProbingData, States, chosen_layers, probing_data
from pytest_bertology.measures.probing_report import ProbeReport, judge_of
from pytest_bertology.measures.probing_scores import Difference
from pytest_bertology.measures.retention import judged_mask, least_important
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.trained import as_trained
from pytest_bertology.tasks.items import check_labelled, items_of
from pytest_bertology.tasks.metrics import LANGUAGE
from pytest_bertology.tasks.task import Task

BEST = "best"
_DATA = ("train", "held_out", "pooling", "too_long", "seed")
"""Arguments of `probe` that say what it learns from."""


@dataclass(frozen=True, eq=False, repr=False)
class ProbeRetention:
    """Probes of one layer of the model as trained, and of the masked one: each trained on its own model's states."""

    baseline: ProbeReport
    """Of the model as trained; with layer="best", of all its layers."""
    pruned: ProbeReport
    """Under the mask."""
    layer: int
    mask: HeadMask
    by: str
    """How the heads were chosen, or ""."""
    difference: Difference
    """The score as trained less that under the mask, on the same items, with an interval over texts."""

    def __repr__(self) -> str:
        scores = f"{self.baseline_score:.4f} → {self.score:.4f}"
        return f"ProbeRetention({scores} at layer {self.layer}, {len(self.mask.masked)} heads masked)"

    @property
    def baseline_score(self) -> float:
        """Of the probe of the model as trained."""
        return self.baseline.at(self.layer).score

    @property
    def score(self) -> float:
        """Of the probe of the masked model."""
        return self.pruned.at(self.layer).score

    @property
    def drop(self) -> float:
        """How much worse the masked model's probe is; negative where it is better."""
        drop: float = self.baseline.metric.drop(self.baseline_score, self.score)
        return drop

    @property
    def relative_drop(self) -> float:
        """The drop as a share of the baseline; raises UndefinedScore for a baseline of 0."""
        if self.baseline_score == 0.0:
            raise UndefinedScore("the relative drop", f"the baseline {self.baseline.metric.name} is 0")
        return self.drop / abs(self.baseline_score)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads whose gates are not open."""
        return self.mask.touched


def probe_retention(
    model: ModelUnderTest,
    task: Task,
    mask: HeadMask,
    *,
    layer: int | str = BEST,
    confidence: float = 0.95,
    by: str = "",
    **options: Any,
) -> ProbeRetention:
    """Probe a layer of the model as trained and under exactly `mask`, each with a probe trained on its own states.

    So it is asked whether the masked model still knows, and not whether an old probe can still read it. `layer` counts
    from 0, the embeddings; "best" is the best layer of the model as trained, by the held-out part. Changes of attention
    and skipped layers in force around the call stay in force under `mask`, and are no part of the baseline. `options`
    are those of `probe`; neither control task nor random weights are looked at unless asked for.

    Raises NothingToJudge where the mask moves no state of that layer: heads above a layer cannot; InvalidArgument for
    options that `probe` has not; and what `probe` raises.
    """
    check_model_and_task(model, task)
    check_labelled(task)
    check_layer(layer)
    check_options(options)
    options = {"control": False, "random_model": False} | options
    with model.exactly(None), as_trained(model):
        layers: Any = "all" if layer == BEST else [layer]
        baseline = probe(model, task, layers, confidence=confidence, **options)
        chosen = baseline.best_layer if layer == BEST else int(layer)
        data, before = _states(model, task, options)
        chosen_layers([chosen], before.layers)
    with model.exactly(mask):
        after = data.record(model, what="a probe", **_reading(options))
        if all(np.array_equal(before.vectors(part, chosen), after.vectors(part, chosen)) for part in PARTS):
            raise _unmoved(mask, chosen, before.layers)
        pruned = probe(model, task, [chosen], confidence=confidence, **options)
    number = {label: index for index, label in enumerate(data.classes)}
    ours, theirs = (np.array([number[label] for label in report.predictions(chosen)]) for report in (baseline, pruned))
    difference = judge_of(data, confidence).difference(data.parts[TESTED].labels, ours, theirs)
    return ProbeRetention(baseline, pruned, chosen, mask, by, difference)


def mask_for(
    model: ModelUnderTest,
    task: Task,
    *,
    mask: HeadMask | None,
    heads: Iterable[HeadLike] | None,
    prune: float | None,
    by: str | Method | HeadScores | None,
    model_task: Task | None,
    seed: int,
) -> tuple[HeadMask, str]:
    """What is masked in all, by one of `mask`, `heads` and `prune` or what is in force, and how it was chosen.

    Raises InvalidArgument for several of them, NoHeadSelected or NothingToJudge for none.
    """

    def least(fraction: float) -> tuple[HeadMask, str]:
        ordering, on, name = ordering_of(model, task, by, model_task)
        chosen, scores = least_important(model, on, fraction, ordering, seed)
        return chosen, name or scores.method

    judged, why = judged_mask(model, mask, heads, prune, least)
    if not judged.touched:
        what = "all heads are as trained" if mask is None else "the mask keeps all heads"
        raise NothingToJudge(what, "Say which heads to mask, by heads=, mask= or prune=.")
    return judged, why


def ordering_of(
    model: ModelUnderTest, task: Task, by: str | Method | HeadScores | None, model_task: Task | None
) -> tuple[str | Method | HeadScores, Task, str]:
    """What to order heads by, on which task, and its name where it is none of `head_importance`.

    None is the gradient on what the model itself does: on `model_task`; else on the probing task, if the model can do
    it; else the language model's loss on the probing task's texts. A model that does none of these has its heads
    ordered by their confidence on those texts (Voita et al. 2019), which needs no labels.
    """
    check_has_heads(model)
    own = model_task or _doable(model, task) or _language_task(model, task)
    if by is not None:
        if own is None and not isinstance(by, HeadScores) and by != "random":
            expected = f"with model_task=, a task that {model.name} ({model.kind}) can do; or None, scores, or 'random'"
            raise InvalidArgument("by", by, expected)
        return by, own or task, ""
    if own is not None:
        return "gradient", own, f"gradient on {own.name}"
    texts = list(items_of(task).texts)
    scores = attention_statistics(model, texts).confidence  # type: ignore[arg-type]
    return scores, task, "confidence on the probing task's texts"


def check_layer(layer: object) -> None:
    """Raise InvalidArgument for what is neither "best" nor a number from 0."""
    if layer != BEST and (not is_whole(layer) or layer < 0):  # type: ignore[operator]
        raise InvalidArgument("layer", layer, "'best', or a number from 0 (the embeddings)")


def check_options(
    options: Mapping[str, object],
    taken: Collection[str] = ("model", "task", "layers"),
    of: Callable[..., object] = probe,
) -> None:
    """Raise InvalidArgument for options that `probe` does not have, or that the caller gives it itself (`taken`)."""
    known = [name for name in inspect.signature(of).parameters if name not in taken]
    for name, value in options.items():
        if name not in known:
            raise InvalidArgument(name, value, f"options of {of.__name__}, which are {', '.join(known)}")


def _doable(model: ModelUnderTest, task: Task) -> Task | None:
    """The task, if the model has outputs for it."""
    try:
        encode(model, task)
    except (WrongTaskKind, LabelMismatch):
        return None
    return task


def _language_task(model: ModelUnderTest, task: Task) -> Task | None:
    if model.kind not in ("causal-lm", "masked-lm"):
        return None
    texts = items_of(task).texts
    whole = tuple(text if isinstance(text, str) else " ".join(text) for text in texts)
    return Task(f"the texts of {task.name}", LANGUAGE, whole, None)


def _states(model: ModelUnderTest, task: Task, options: dict[str, Any]) -> tuple[ProbingData, States]:
    data = probing_data(model, task, **{name: options[name] for name in _DATA if name in options})
    return data, data.record(model, what="a probe", **_reading(options))


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("stack", "batching") if name in options}


def _unmoved(mask: HeadMask, layer: int, layers: int) -> NothingToJudge:
    heads = " ".join(map(str, mask.touched[:8]))
    what = f"masking {heads} moves no state of layer {layer} (of 0, the embeddings, to {layers})"
    advice = "Heads act on the states behind them (L0H0 on layer 1 and on): probe a higher layer, or mask lower heads."
    return NothingToJudge(what, advice)
