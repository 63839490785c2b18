"""Why a check on code lengths failed, for a tired engineer."""

from __future__ import annotations

from pytest_bertology.checks.explain import beside, table
from pytest_bertology.measures.code_length_report import CodeLengthReport, LayerCode
from pytest_bertology.measures.early import ROUNDING
from pytest_bertology.models import ModelUnderTest

AT_LEAST, CONTROL, FREQUENCIES = "at least", "control", "frequencies"


def missed(report: CodeLengthReport, found: LayerCode, at_least: float) -> dict[str, str]:
    """Which of what was required does not hold, and how to say it."""
    reasons = {}
    if found.compression < at_least - ROUNDING:
        reasons[AT_LEAST] = f"less than {at_least:g} times"
    if found.compression <= report.frequency_compression + ROUNDING:
        reasons[FREQUENCIES] = "no further than their own frequencies do"
    if found.control_compression is not None and found.compression <= found.control_compression + ROUNDING:
        reasons[CONTROL] = "no further than those of the control task"
    return reasons


def not_compressed(
    model: ModelUnderTest, report: CodeLengthReport, found: LayerCode, at_least: float, reasons: dict[str, str]
) -> str:
    """The failure page of a check on one layer."""
    data = report.probing
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "data": f"{report.items} {data.level}s of {report.training}, {len(data.classes)} labels",
        "uniform code": f"{report.uniform_bits:.0f} bits",
        "online code": f"{found.bits:.0f} bits, a compression of {found.compression:.4f}; required: at least "
        f"{at_least:g}, {_kept(AT_LEAST, reasons)}",
        "frequencies": f"{report.frequency_bits:.0f} bits without any states, a compression of "
        f"{report.frequency_compression:.4f}; required: below the layer's, {_kept(FREQUENCIES, reasons)}",
        **_control(found, reasons),
        "last probe": f"{data.metric.name} {found.score:.4f} on {report.data}",
        **_few(report),
        **beside(model),
    }
    title = f"the states of layer {found.layer} compress the labels {' and '.join(reasons.values())}"
    return "\n".join([title, "", *table(rows)])


def _control(found: LayerCode, reasons: dict[str, str]) -> dict[str, str]:
    if found.control_compression is None:
        return {}
    said = f"a compression of {found.control_compression:.4f}; required: below the true labels'"
    return {"control task": f"{said}, {_kept(CONTROL, reasons)}"}


def _few(report: CodeLengthReport) -> dict[str, str]:
    """Few items make long codes, whatever the states hold."""
    if report.items >= 50 * len(report.probing.classes):
        return {}
    return {"mind": "there are few items for so many labels: probes learn little from them. Give more with train="}


def _kept(what: str, reasons: dict[str, str]) -> str:
    return "missed" if what in reasons else "kept"
