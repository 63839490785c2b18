"""Checks on how far a layer's states compress labels."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_bertology.checks import explain_code_length as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.code_length import FRACTIONS, description_length
from pytest_bertology.measures.code_length_report import CodeLengthReport
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


def assert_compression(
    model: ModelUnderTest,
    task: Task,
    at_least: float,
    *,
    layer: int,
    above_control: bool = True,
    train: Task | None = None,
    fractions: Sequence[float] = FRACTIONS,
    pooling: str | None = None,
    too_long: str = "split",
    stack: str | None = None,
    seed: int = 0,
    batching: Batching | None = None,
) -> CodeLengthReport:
    """Assert that a layer's states compress a task's labels `at_least` so many times; return the report.

    `description_length` says how (Voita & Titov 2020, the online code): compression is the bits of a uniform code over
    those of labels sent to someone who has the states. With `above_control` the labels of the control task must be
    compressed less. Whatever is required, the check fails where the states are of no use: where the labels' own
    frequencies compress them as far.

    Raises CheckFailed (an AssertionError); InvalidArgument; and what `description_length` raises.
    """
    __tracebackhide__ = True
    check_model_and_task(model, task)
    if isinstance(at_least, bool) or not isinstance(at_least, int | float) or not 0.0 < at_least < float("inf"):
        raise InvalidArgument("at_least", at_least, "a compression, a number above 0, such as 3")
    if not isinstance(above_control, bool):
        raise InvalidArgument("above_control", above_control, "True or False")
    if not is_whole(layer):
        raise InvalidArgument("layer", layer, "one layer, by its number; 0 is the embeddings")
    report = description_length(
        model,
        task,
        [layer],
        train=train,
        fractions=fractions,
        control=above_control,
        pooling=pooling,
        too_long=too_long,
        stack=stack,
        seed=seed,
        batching=batching,
    )
    found = report.at(layer)
    missed = explain.missed(report, found, at_least)
    verdict = Verdict(
        check="assert_compression",
        passed=not missed,
        observed=found.compression,
        required=f">= {at_least:g}" + (", and above the control task's" if above_control else ""),
        judged=f"compression of labels at layer {layer}",
        model=model.name,
        task=report.training,
        examples=report.items,
        details={
            "online_bits": found.bits,
            "uniform_bits": report.uniform_bits,
            "frequency_compression": report.frequency_compression,
            "control_compression": found.control_compression,
            "score": found.score,
        },
    )
    give(verdict, lambda: explain.not_compressed(model, report, found, at_least, missed))
    return report
