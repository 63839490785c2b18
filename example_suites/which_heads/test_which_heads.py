"""Which heads matter, and how many can go: ablation one head at a time, a pruning curve, a search.

The heads and numbers are the embedded model's; yours belong in your suite. With `--bertology-figures=figures` what is
computed here is drawn as well.
"""

from __future__ import annotations

from pytest_bertology import (
    ablate_heads,
    assert_heads_in_top,
    assert_layer_survives_one_head,
    assert_prunable,
    assert_ranking_agrees,
    assert_specialised_heads_survive,
    head_importance,
    pruning_curve,
)


def test_the_head_that_matters_most_alone(bertology_model, bertology_task):
    report = ablate_heads(bertology_model, bertology_task.subset(range(100)))

    assert_heads_in_top(report.drop, [(5, 10)], k=1)


def test_the_gradient_foretells_what_ablation_finds(bertology_model, bertology_task):
    """An estimate of one backward pass, beside 72 exact evaluations (kept from the test above)."""
    few = bertology_task.subset(range(100))
    estimated, exact = (head_importance(bertology_model, few, method) for method in ("taylor", "ablation"))

    assert_ranking_agrees(estimated, exact, min_correlation=0.5)


def test_one_head_of_the_third_layer_can_do_its_work(bertology_model, bertology_task):
    assert_layer_survives_one_head(bertology_model, bertology_task.subset(range(100)), layer=2, tolerance=0.01)


def test_a_fifth_of_the_heads_costs_three_points(bertology_model, bertology_task):
    curve = pruning_curve(bertology_model, bertology_task, fractions=[0.1, 0.2, 0.3])

    assert curve.largest_within(0.03) >= 0.2


def test_a_fifth_of_the_heads_can_go_on_reviews_that_the_search_did_not_see(bertology_model, bertology_task):
    found = assert_prunable(
        bertology_model, bertology_task, 0.2, floor=0.95, relative=True, search="threshold", held_out=0.5
    )

    assert_specialised_heads_survive(found, [(5, 10)])
