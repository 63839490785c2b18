"""Why a check on probes failed, for a tired engineer."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from pytest_bertology.checks.explain import table
from pytest_bertology.engine.announcing import state_of
from pytest_bertology.measures.probing_data import HELD_OUT, TESTED
from pytest_bertology.measures.probing_report import LayerProbe, ProbeReport
from pytest_bertology.measures.probing_scores import Difference
from pytest_bertology.models import ModelUnderTest

_LABELS, _FEWEST = 4, 5
_LONGEST = 80


class Required(NamedTuple):
    """What a probe had to reach."""

    at_least: float
    selectivity: float | None
    lead: float | None
    confidence: float | None
    bound: float | None
    """The lower bound of the score at `confidence`."""


def probe_too_weak(
    model: ModelUnderTest, report: ProbeReport, layer: int, best: bool, required: Required, failed: tuple[str, ...]
) -> str:
    """The failure page of a check on the score of a probe."""
    found = report.at(layer)
    data = report.probing
    chosen = f", the best of {len(report.layers)} on the held-out part" if best else ""
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "data": f"{report.data}: {len(report)} {data.level}s of {len(data.parts[TESTED].read.texts)} texts, "
        f"{len(data.classes)} labels",
        "trained on": f"{report.trained_on} {data.level}s of {report.training}; {len(data.parts[HELD_OUT])} held out",
        "probe": f"{report.kind}, of layer {layer} (0: the embeddings){chosen}; {_settled(found)}",
        report.metric.name: _score(found, required, failed),
        **_bound(required, failed),
        "majority class": f"{found.majority:.4f}, {_difference(found.lead_over_majority, report)}; required: surely "
        f"above 0, {_kept('majority', failed)}",
        "control task": _control(found, report, required, failed),
        "random weights": _random(found, report, required, failed),
        **({} if best else {"other layers": _others(report, layer, required)}),
        **({"in force": state_of(model)} if state_of(model) else {}),
        **({"note": "; ".join(report.notes)} if report.notes else {}),
    }
    which = f"layer {layer}, the best on the held-out part," if best else f"layer {layer}"
    title = f"The probe of {which} {_missed(found, report, required, failed)}"
    return "\n".join([title, "", *table(rows), *_layers(report), *_worst(report, layer)])


def _missed(found: LayerProbe, report: ProbeReport, required: Required, failed: tuple[str, ...]) -> str:
    """Which of what was required does not hold."""
    said = []
    if "score" in failed:
        surely = required.bound is not None and found.score >= required.at_least
        scored = f"{report.metric.name} {found.score:.4f}"
        if required.bound is not None:
            scored += f", lower bound {required.bound:.4f} at {required.confidence:.0%} confidence"
        said.append(f"does not {'surely ' if surely else ''}reach {required.at_least:g} ({scored})")
    if "majority" in failed:
        better = "not surely better" if found.lead_over_majority.value > 0.0 else "no better"
        said.append(f"is {better} than the majority class")
    if "selectivity" in failed and found.selectivity is not None:
        least = required.selectivity or 0.0
        said.append(f"has a selectivity of {found.selectivity.value:+.4f}, below {least:g}")
    if "random" in failed:
        said.append(f"is not {required.lead:g} better than one of random weights")
    return " and ".join(said)


def _settled(found: LayerProbe) -> str:
    return f"{found.curve.by} {found.curve.steps[found.curve.chosen]:.3g} chosen on the held-out part"


def _kept(name: str, failed: tuple[str, ...]) -> str:
    return "missed" if name in failed else "kept"


def _short(value: float, required: Required, failed: tuple[str, ...]) -> str:
    """Whether the score that is judged was reached, and by how much not."""
    return f"missed by {required.at_least - value:.4f}" if "score" in failed else "kept"


def _others(report: ProbeReport, layer: int, required: Required) -> str:
    """Whether another layer would have done."""
    if len(report.layers) == 1:
        return "not probed; layers='all' shows them"
    best = report.best_layer
    if best == layer:
        return f"none of {len(report.layers)} probed is better on the held-out part"
    score = report.at(best).score
    reaches = "reaches" if score >= required.at_least else "does not reach"
    return f"the best measured is layer {best} ({score:.4f}), which {reaches} {required.at_least:g}"


def _score(found: LayerProbe, required: Required, failed: tuple[str, ...]) -> str:
    said = f"{found.score:.4f} [{found.interval[0]:.4f}, {found.interval[1]:.4f}]"
    if required.bound is not None:
        return said
    return f"{said}; required: at least {required.at_least:g}, {_short(found.score, required, failed)}"


def _bound(required: Required, failed: tuple[str, ...]) -> dict[str, str]:
    if required.bound is None:
        return {}
    said = f"at least {required.bound:.4f} with {required.confidence:.0%} confidence; required: at least"
    return {"true score": f"{said} {required.at_least:g}, {_short(required.bound, required, failed)}"}


def _control(found: LayerProbe, report: ProbeReport, required: Required, failed: tuple[str, ...]) -> str:
    if found.selectivity is None:
        return "not looked at (control=False)"
    least = required.selectivity or 0.0
    return (
        f"{found.control_score:.4f} on labels drawn at random for each type, a selectivity of "
        f"{_difference(found.selectivity, report)}; required: at least {least:g}, {_kept('selectivity', failed)}"
    )


def _random(found: LayerProbe, report: ProbeReport, required: Required, failed: tuple[str, ...]) -> str:
    if found.lead_over_random is None:
        return "not looked at (random_model=False)"
    said = f"{found.random_score:.4f}, {_difference(found.lead_over_random, report)}"
    if required.lead is None:
        return said
    return f"{said}; required: at least {required.lead:g}, {_kept('random', failed)}"


def _difference(found: Difference, report: ProbeReport) -> str:
    low, high = found.interval
    return f"{found.value:+.4f} [{low:+.4f}, {high:+.4f}] at {report.confidence:.0%}"


def _layers(report: ProbeReport) -> list[str]:
    """The table, without its title."""
    return ["", "  layers probed:", *(f"    {line}" for line in report.table().split("\n")[1:])]


def _worst(report: ProbeReport, layer: int) -> list[str]:
    """The labels that are found least often, each with what it is taken for and an example."""
    items = report.probing.parts[TESTED].items
    said, right = report.predictions(layer), report.right(layer)
    counts = Counter(items.labels)
    shares = report.by_label(layer)
    frequent = [label for label in shares if counts[label] >= _FEWEST and shares[label] < 1.0]
    lines = []
    for label in sorted(frequent, key=lambda each: shares[each])[:_LABELS]:
        wrong = [index for index, each in enumerate(items.labels) if each == label and not right[index]]
        taken, times = Counter(said[index] for index in wrong).most_common(1)[0]
        example = next(index for index in wrong if said[index] == taken)
        found = f"{counts[label] - len(wrong)} of {counts[label]} found, {times} taken for {taken}"
        lines.append(f"    {label}: {found}; for example {_shown(report, example)}")
    return ["", "  labels found least often:", *lines] if lines else []


def _shown(report: ProbeReport, index: int) -> str:
    """One item, and the text it stands in."""
    items = report.probing.parts[TESTED].items
    text = items.texts[int(np.asarray(items.text_of)[index])]
    whole = text if isinstance(text, str) else " | ".join(map(str, text))
    parts = [repr(whole[a:b]) for a, b in items.spans[index]]
    short = repr(whole if len(whole) <= _LONGEST else whole[: _LONGEST - 1] + "…")
    return f"{' and '.join(parts)} in {short}" if parts else short
