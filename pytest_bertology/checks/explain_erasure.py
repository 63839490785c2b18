"""Why a check on an erased property failed, for a tired engineer."""

from __future__ import annotations

from pytest_bertology.checks.drops import force_details
from pytest_bertology.checks.explain import table
from pytest_bertology.measures.amnesic_report import AmnesicReport, LayerAmnesia
from pytest_bertology.models import ModelUnderTest


def used(
    model: ModelUnderTest,
    report: AmnesicReport,
    found: LayerAmnesia,
    tolerance: float,
    bound: float | None,
    confidence: float | None,
) -> str:
    """The failure page of a check that a property is not used."""
    unsure = bound is not None and found.drop_interval[0] <= tolerance
    kept = f"{report.metric} of {report.task} is {'' if unsure else 'not '}retained"
    title = f"{'it cannot be told whether ' if unsure else ''}{kept} without {report.erased} at layer {found.layer}"
    said = f"{found.drop:.4f}; required: at most {tolerance:g}"
    rows = {"drop": said}
    if bound is not None:
        rows["true drop"] = f"below {bound:.4f} with {confidence:.0%} confidence"
        if found.drop <= tolerance:
            rows["true drop"] += (
                f". The drop itself is within the tolerance, but {report.examples} examples cannot establish that. Use "
                "more examples or a larger tolerance."
            )
    return _page(model, report, found, title, rows, _reading(report, found))


def unused(model: ModelUnderTest, report: AmnesicReport, found: LayerAmnesia, at_least: float) -> str:
    """The failure page of a check that a property is used."""
    title = f"{report.metric} of {report.task} does not need {report.erased} at layer {found.layer}"
    rows = {"drop": f"{found.drop:.4f}; required: at least {at_least:g}, and more than random directions cost"}
    return _page(model, report, found, title, rows, _reading(report, found))


def not_there(report: AmnesicReport, found: LayerAmnesia, where: str) -> tuple[str, str]:
    """That no linear probe surely beats the majority class before, and what to do about it."""
    own, erasure = found.erasure.only, found.erasure
    low, high = own.before.interval
    texts = f"{erasure.judged_on} {erasure.level}s"
    gets = f"a linear probe of {report.erased} gets {own.accuracy_before:.4f} {where}, on {texts}"
    what = (
        f"{gets}, and the majority class {own.majority:.4f}: that is not surely more (the difference is "
        f"{own.before.difference:+.4f}, from {low:+.4f} to {high:+.4f} with {erasure.confidence:.0%} confidence), and "
        "so there is nothing to erase"
    )
    layer = "a layer at which the property is decodable (see probe)"
    if own.before.difference <= 0.0:
        return what, f"Take {layer}."
    return (
        what,
        f"It may be there, and {texts} are too few to tell: take more of them, or train= to learn it, or {layer}.",
    )


def _reading(report: AmnesicReport, found: LayerAmnesia) -> str:
    """What the comparison with random directions says."""
    low, high = found.interval
    said = f"{found.difference:+.4f} (from {low:+.4f} to {high:+.4f}, {report.confidence:.0%}): "
    if low > 0.0:
        return said + "the property's own directions matter"
    if high < 0.0:
        return said + "random directions cost more: what is lost is not the property's"
    return said + "no more than that of any directions, so far as these examples tell"


def _page(
    model: ModelUnderTest,
    report: AmnesicReport,
    found: LayerAmnesia,
    title: str,
    told: dict[str, str],
    reading: str,
) -> str:
    own, erasure = found.erasure.only, found.erasure
    controls = ", ".join(f"{each:.4f}" for each in found.random_drops)
    decoded = (
        f"{own.accuracy_before:.4f} before, {own.accuracy_after:.4f} after, majority class {own.majority:.4f} "
        f"({erasure.judged_on} {erasure.level}s)"
    )
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "task": f"{report.task} ({report.examples} examples)",
        "property": f"{report.erased} ({len(erasure.classes)} classes, from {erasure.trained_on} of {erasure.source})",
        "baseline": f"{report.baseline:.4f}",
        "without": f"{found.score:.4f} ({found.rank} directions by {report.method})",
        **told,
        "random": f"as many random directions cost {found.random_drop:.4f} ({controls})",
        "more than": reading,
        "linear probe": decoded,
        **_also(model),
    }
    return "\n".join([title, "", *table(rows)])


def _also(model: ModelUnderTest) -> dict[str, str]:
    """What is in force beside, in the baseline too."""
    return {name: f"{'; '.join(each)}, for the baseline too" for name, each in force_details(model).items()}
