"""Checks on models of code."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_bertology.checks import explain_code as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument, NothingToJudge
from pytest_bertology.measures.cat import CatReport, cat_score
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.statistics import pairs_needed

_CONFIDENCE = 0.95


def assert_cat_score(
    model: ModelUnderTest,
    snippets: Iterable[str],
    at_least: float,
    *,
    above_random: bool = True,
    language: str = "python",
    layer: int | Iterable[int] | str = -1,
) -> CatReport:
    """Assert that a model of code attends along the syntax tree: a CAT-score of `at_least`; return the report.

    See `cat_score`, which takes more arguments. With `above_random`, the score must also be above that of random
    attention over the same tokens, by more than chance: the 95 % interval of the difference lies above 0. Scores are
    small (random attention has about 0.12): take `at_least` from a model you trust, on the same snippets.

    Raises CheckFailed (an AssertionError); InvalidArgument for an `at_least` that every model reaches; NothingToJudge
    for fewer than 5 snippets with a score, which cannot be told from chance; and what `cat_score` raises.
    """
    __tracebackhide__ = True
    lowest = isinstance(at_least, int | float) and not isinstance(at_least, bool) and 0.0 <= at_least <= 1.0
    if not lowest or not (at_least > 0.0 or above_random):
        raise InvalidArgument("at_least", at_least, "a score above 0 and up to 1; or 0, with above_random=True")
    found = cat_score(model, snippets, language, layer=layer)
    needed = pairs_needed(_CONFIDENCE)
    if above_random and found.scored < needed:
        what = f"{found.scored} snippets with a score cannot be told from chance"
        raise NothingToJudge(what, f"Give {needed} or more, or above_random=False.")
    verdict = Verdict(
        check="assert_cat_score",
        passed=found.score >= at_least - 1e-12 and (found.control.below or not above_random),
        observed=found.score,
        required=f">= {at_least:g}" + (", above random attention" if above_random else ""),
        judged="CAT-score",
        model=model.name,
        task=f"{len(found.scores)} snippets of {language}",
        examples=found.scored,
        details={"layers": list(found.by_layer), "random": found.control.score, "token_types": list(found.token_types)},
    )
    give(verdict, lambda: explain.off_the_tree(model, found, at_least, above_random))
    return found
