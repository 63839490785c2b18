"""The classical pipeline: what the layers of a model know of grammar, in which order, and whether pruning forgets it.

    pytest example_suites/pipeline --bertology-model=./release-candidate --bertology-task=dev.conllu

asks your model about your trees (Universal Dependencies has them for most languages); the numbers here are those of
the embedded model on sentences of a small grammar, so put your own in their place. Nothing is fine-tuned: probes are
small classifiers trained on the states of the frozen model, judged on texts that they did not learn from.
"""

from __future__ import annotations

import pytest

from pytest_bertology import (
    CheckFailed,
    assert_claim,
    assert_layer_order,
    assert_probe_retained,
    assert_probe_score,
    claims,
)


def test_parts_of_speech_can_be_read_off(bertology_model, parts_of_speech):
    """Far better than off random weights, which know of a word no more than which word it is.

    A control task of random labels is not looked at here: a probe learns any labels of the grammar's 90 words by heart.
    With a corpus of your own leave `control` as it is, and ask for `min_selectivity` too.
    """
    report = assert_probe_score(
        bertology_model, parts_of_speech, at_least=0.95, min_lead_over_random=0.05, layers=[0, 2], control=False
    )
    print(report.table())

    assert report.best_layer > 0


def test_parts_of_speech_come_before_dependencies(bertology_model, parts_of_speech, relations):
    """Edge probing (Tenney et al. 2019): where layers add nothing more to what those below them tell."""
    tasks = {"pos": parts_of_speech, "dep": relations}
    reports = assert_layer_order(bertology_model, tasks, by="expected_layer", seeds=(0, 1), steps=150)

    assert reports["dep"].expected_layer - reports["pos"].expected_layer > 0.2


def test_a_pruned_model_still_knows_parts_of_speech(bertology_model, parts_of_speech):
    found = assert_probe_retained(bertology_model, parts_of_speech, layer=2, prune=0.3, tolerance=0.03)

    assert found.mask.masked


def test_relations_have_heads_of_their_own(bertology_model, trees):
    found = assert_claim("single heads track single relations", bertology_model, conllu=trees)
    print(found.table())


def test_early_layers_know_where_words_stand(bertology_model, trees):
    assert_claim("early layers carry positional information", bertology_model, conllu=trees)


def test_a_claim_that_the_data_cannot_decide_does_not_pass(bertology_model, relations):
    """Layer 3 is best, as the literature has it, and 30 sentences cannot tell it from others."""
    with pytest.raises(CheckFailed, match="cannot be decided from this data"):
        assert_claim("middle layers carry most syntax", bertology_model, task=relations.subset(range(120)))


def test_what_claims_there_are():
    """`pytest -s` shows each with its source, what it needs, and exactly when it holds."""
    for claim in claims():
        print(claim.describe(), "\n")

    assert len(claims()) >= 5
