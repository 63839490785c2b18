"""Why a check on probes and pruning failed, for a tired engineer."""

from __future__ import annotations

from pytest_bertology.checks.explain import idle, table
from pytest_bertology.measures.compression_path import CompressionPath
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.measures.probe_retention import ProbeRetention
from pytest_bertology.models import ModelUnderTest

_SHOWN = 12


def not_retained(
    model: ModelUnderTest,
    found: ProbeRetention,
    tolerance: float,
    relative: bool,
    bound: float | None,
    confidence: float | None,
) -> str:
    """The failure page of a check on a probe of a masked model."""
    baseline = found.baseline.at(found.layer)
    known = found.baseline.beats_majority(found.layer)
    drop = found.relative_drop if relative else found.drop
    many = f"{len(found.heads)} of {len(model.heads)} heads masked{found.by}"
    if not known:
        title = f"there is nothing to retain: the probe of layer {found.layer} does not beat the most frequent class"
    else:
        sure = bound is not None and drop <= tolerance + ROUNDING
        title = f"the probe of layer {found.layer} {'may not be' if sure else 'is not'} retained with {many}"
    names = " ".join(map(str, found.heads[:_SHOWN])) + (" …" if len(found.heads) > _SHOWN else "")
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "probes": f"{found.baseline.data}, {found.baseline.metric.name} of a probe trained on each model's own states",
        "as trained": f"{baseline.score:.4f} {_interval(baseline.interval)}",
        "majority": f"{found.baseline.majority_baseline:.4f}" + ("" if known else "; must be surely exceeded: missed"),
        "masked": f"{found.score:.4f} {_interval(found.pruned.at(found.layer).interval)}",
        "drop": f"{drop:.4f}{' of the baseline' if relative else ''}" + _required(bound, tolerance),
        **_bound(bound, confidence, tolerance),
        "heads": names,
        **idle(model, list(found.heads)),
    }
    return "\n".join([title, "", *table(rows)])


def does_not_track(found: CompressionPath, min_correlation: float) -> str:
    """The failure page of a check on probes along a path of compression."""
    title = (
        f"probing scores do not go with the model's {found.model_metric.name}: rank correlation "
        f"{found.rank_correlation:+.3f}; required: at least {min_correlation:g}"
    )
    return "\n".join([title, "", *(f"  {line}" for line in found.table().splitlines())])


def _interval(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"


def _required(bound: float | None, tolerance: float) -> str:
    return f"; required: at most {tolerance:g}" if bound is None else ""


def _bound(bound: float | None, confidence: float | None, tolerance: float) -> dict[str, str]:
    if bound is None or confidence is None:
        return {}
    return {"true drop": f"at most {bound:.4f} with {confidence:.0%} confidence; required: at most {tolerance:g}"}
