"""Checks on models of code."""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan

from pytest_bertology.checks import explain_code as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument, NothingToJudge
from pytest_bertology.heads import HeadLike
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
    above_neighbours: bool = False,
    language: str = "python",
    layer: int | Iterable[int] | str = -1,
    stack: str | None = None,
    heads: Iterable[HeadLike] | None = None,
    token_types: str | Iterable[str] | None = None,
    errors: str = "raise",
    batching: Batching | None = None,
) -> CatReport:
    """Assert that what a model of code attends to fits the syntax tree: a CAT-score of `at_least`; return the report.

    See `cat_score` for the other arguments. With `above_random`, the score must also be above that of random attention
    over the same tokens, by more than chance: the 95 % interval of the difference lies above 0. Scores are small
    (random attention has about 0.12): take `at_least` from a model you trust, on the same snippets.

    Attention by distance in the text alone is above random too, since neighbours are near in the tree (about 0.5 to
    0.6): a pass says that attention fits the tree, and nothing of syntax. Only `above_neighbours`, which asks the same
    of the difference to such attention, tells knowledge of the tree from that of the order of tokens. Few models pass.

    Raises CheckFailed (an AssertionError); InvalidArgument for an `at_least` that every model reaches; NothingToJudge
    for fewer than 5 different snippets with a score, which cannot be told from chance; and what `cat_score` raises.
    """
    __tracebackhide__ = True
    lowest = isinstance(at_least, int | float) and not isinstance(at_least, bool) and 0.0 <= at_least <= 1.0
    if not lowest or not (at_least > 0.0 or above_random or above_neighbours):
        raise InvalidArgument("at_least", at_least, "a score above 0 and up to 1; or 0, with above_random=True")
    found = cat_score(
        model, snippets, language, layer=layer, stack=stack, heads=heads, token_types=token_types, errors=errors,
        batching=batching,
    )  # fmt: skip
    needed = pairs_needed(_CONFIDENCE)
    if (above_random or above_neighbours) and found.scored < needed:
        different = "different " if found.repeated else ""
        what = f"{found.scored} {different}snippets with a score cannot be told from chance"
        off = ", ".join(f"{name}=False" for name, on in _asked(above_random, above_neighbours).items() if on)
        raise NothingToJudge(what, f"Give {needed} or more, or {off}.")
    held = (found.control.below or not above_random) and (found.above_neighbours or not above_neighbours)
    required = [f">= {at_least:g}", *(["above random attention"] if above_random else [])]
    required += ["above attention by distance alone"] if above_neighbours else []
    verdict = Verdict(
        check="assert_cat_score",
        passed=found.score >= at_least - 1e-12 and held,
        observed=found.score,
        required=", ".join(required),
        judged="CAT-score",
        model=model.name,
        task=f"{len(found.scores)} snippets of {language}",
        examples=found.scored,
        details={
            "layers": list(found.by_layer),
            "random": found.control.score,
            "neighbours": None if isnan(found.neighbours) else found.neighbours,
            "token_types": list(found.token_types),
        },
    )
    asked = _asked(above_random, above_neighbours)
    give(verdict, lambda: explain.off_the_tree(model, found, at_least, **asked))
    return found


def _asked(above_random: bool, above_neighbours: bool) -> dict[str, bool]:
    return {"above_random": above_random, "above_neighbours": above_neighbours}
