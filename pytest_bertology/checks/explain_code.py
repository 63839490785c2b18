"""Why a check on a model of code failed, for a tired engineer."""

from __future__ import annotations

from pytest_bertology.checks.explain import table
from pytest_bertology.measures.cat import CatReport, between
from pytest_bertology.models import ModelUnderTest

_SHOWN = 5


def off_the_tree(
    model: ModelUnderTest, found: CatReport, at_least: float, *, above_random: bool, above_neighbours: bool
) -> str:
    """The failure page of a check on the CAT-score."""
    if found.score < at_least:
        title = f"{model.name} attends less along the syntax tree than required: CAT-score {found.score:.4f}"
    elif found.control.below or not above_random:
        title = f"{model.name} does not attend along the syntax tree more than attention by distance alone does"
    else:
        title = f"{model.name} does not attend along the syntax tree more than random attention does"
    layers = ", ".join(f"{layer}: {score:.4f}" for layer, score in found.by_layer.items())
    best = sorted(found.head_scores, key=lambda head: -found.head_scores[head])[:_SHOWN]
    scores = {index: score for index, score in enumerate(found.scores) if score is not None}
    worst = sorted(scores, key=lambda index: scores[index])[:_SHOWN]
    needed = "; required: above 0 by 95 % confidence"
    repeated = f", {len(found.repeated)} repeated and counted once" if found.repeated else ""
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "snippets": f"{found.scored} of {len(found.scores)}, {found.language}{repeated}",
        "CAT-score": f"{found.score:.4f}{between(found.interval)}; required: at least {at_least:g}",
        "above random": f"{found.control.difference:+.4f}{between(found.control.interval, '+')}{needed * above_random}",
        "random attention": f"{found.control.score:.4f}",
        "above neighbours": f"{found.neighbours_difference:+.4f}{between(found.neighbours_interval, '+')}"
        f"{needed * above_neighbours}",
        "neighbours alone": f"{found.neighbours:.4f} (attention by distance in the text)",
        "layers": layers,
        "best heads": ", ".join(f"{head} {found.head_scores[head]:.4f}" for head in best),
        "lowest snippets": ", ".join(f"{index}: {scores[index]:.4f}" for index in worst),
        "token types": ", ".join(map(repr, found.token_types)),
    }
    return "\n".join([title, "", *table(rows), "", f"{found.conclusion[0].upper()}{found.conclusion[1:]}."])
