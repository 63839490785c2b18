"""Ablation of single heads, and of all but one, against copies whose projection weights are zero.

Each copy is run by plain transformers, one text at a time. Planted models say which head must stand out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from pytest_bertology import (
    AblationReport,
    Head,
    HeadMap,
    HeadMask,
    HeadScores,
    ResultStore,
    Task,
    ablate_all_but_one,
    ablate_heads,
    evaluate,
    load_model,
    load_task,
    using_store,
)
from pytest_bertology.engine.announcing import listening
from pytest_bertology.errors import InvalidArgument, MaskNotApplied, NothingToJudge, UndefinedScore
from pytest_bertology.measures import ablation
from pytest_bertology.significance import resample_counts
from tests.families import HEADS, LAYERS, family, plain_inputs, task_for, tokenizer, under_test, zeroed
from tests.planted import planted_model, planted_task

FAMILIES = ("bert", "distilbert", "gpt2", "llama")
WORKING = (Head(0, 0), Head(1, 2), Head(2, 3))
QUALITY = planted_task()
shared = cache(planted_model)


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@cache
def model_of(name):
    return under_test(name)


@cache
def report_of(name):
    with using_store(ResultStore()):
        return ablate_heads(model_of(name), TASK, resamples=400)


@cache
def plain(name, heads):
    """(predictions, losses) of the model with these heads' projection weights zero, one text at a time."""
    model = zeroed(model_of(name), heads)
    with torch.no_grad():
        found = [model(**inputs) for inputs in plain_inputs(model, TASK)]
    return np.array([int(each.logits.argmax()) for each in found]), np.array([float(each.loss) for each in found])


def accuracy(said):
    return float(np.mean(said == np.array(TASK.labels)))


TASK = task_for("sequence-classification", 30)
every_family = pytest.mark.parametrize("name", FAMILIES)


# -- single heads ------------------------------------------------------------------------------------------------


@every_family
def test_each_change_is_that_of_the_model_with_zeroed_weights(name):
    found = report_of(name)

    before, losses = plain(name, ())
    assert found.baseline.score == accuracy(before)
    assert len(found.score_change) == LAYERS * HEADS
    for head in model_of(name).heads:
        after, later = plain(name, (head,))
        assert found.outcomes(head).predictions.tolist() == after.tolist()
        assert found.score_change[head] == pytest.approx(accuracy(after) - accuracy(before), abs=1e-12)
        assert found.loss_change[head] == pytest.approx(later.mean() - losses.mean(), abs=1e-5)


@every_family
def test_something_changes_in_every_family(name):
    found = report_of(name)

    assert np.count_nonzero(found.loss_change.values) == LAYERS * HEADS
    assert np.ptp(found.score_change.values) > 0.05


@every_family
def test_drop_is_the_change_with_the_sign_that_ranks(name):
    found = report_of(name)

    assert np.allclose(found.drop.values, -found.score_change.values, atol=1e-12)
    worst = found.drop.top(1)[0]
    assert found.score_change[worst] == found.score_change.values.min()


def test_where_less_is_better_a_drop_is_a_rise():
    model, task = under_test("gpt2", "causal-lm"), task_for("causal-lm", 8)

    found = ablate_heads(model, task, resamples=200)

    assert found.baseline.metric.name == "perplexity"
    assert np.allclose(found.drop.values, found.score_change.values)
    for head in model.heads:
        expected = evaluate(model, task, mask=[head])
        assert found.outcomes(head).score == pytest.approx(expected.score, rel=1e-5)
        assert found.loss_change[head] == pytest.approx(np.log(expected.score) - np.log(found.baseline.score), abs=1e-5)


@pytest.mark.parametrize("head", WORKING, ids=str)
def test_the_planted_head_costs_half_and_all_others_nothing(head):
    model = shared(head)

    found = ablate_heads(model, QUALITY)

    assert found.baseline.score == 1.0
    assert found.drop.rank(head) == 0
    assert found.drop[head] == 0.5
    others = [other for other in model.heads if other != head]
    assert {found.score_change[other] for other in others} == {0.0}
    assert {found.p_values[other] for other in others} == {1.0}
    assert found.significant() == (head,)
    assert found.significant(0.011) == (head,)


def test_twins_each_cost_nothing_and_together_everything():
    model = planted_model(Head(1, 2), twin=0)

    found = ablate_heads(model, QUALITY)

    twins = [Head(1, 0), Head(1, 2)]
    assert [found.score_change[twin] for twin in twins] == [0.0, 0.0]
    assert found.significant() == ()
    assert min(found.loss_change[twin] for twin in twins) > 0.0
    assert evaluate(model, QUALITY, mask=twins).score == 0.5
    assert ablate_all_but_one(model, QUALITY).best[1].score == 1.0


def test_masks_in_force_stay_in_force():
    model = model_of("bert")

    with model.masked([(0, 1)]):
        found = ablate_heads(model, TASK, resamples=50)

    assert found.baseline.predictions.tolist() == plain("bert", ((0, 1),))[0].tolist()
    assert found.outcomes((1, 3)).predictions.tolist() == plain("bert", ((0, 1), (1, 3)))[0].tolist()
    assert (found.score_change[0, 1], found.loss_change[0, 1], found.p_values[0, 1]) == (0.0, 0.0, 1.0)
    assert Head(0, 1) not in found.tested
    assert len(found.tested) == LAYERS * HEADS - 1


def test_beside_one_twin_the_other_is_all_there_is():
    model = planted_model(Head(1, 2), twin=0)

    with model.masked([(1, 0)]):
        found = ablate_heads(model, QUALITY)

    assert found.drop[1, 2] == 0.5
    assert found.significant() == ((1, 2),)


# -- mean and resampled ablation ---------------------------------------------------------------------------------


def contexts(model):
    """Per layer what the projection is given: (examples, each (tokens, heads, size)), one text at a time."""
    kept = [[] for _ in model.sites]
    handles = [
        model.model.get_submodule(site.name).register_forward_pre_hook(
            lambda _, args, at=at: kept[at].append(args[0][0].reshape(args[0].shape[1], HEADS, -1).clone())
        )
        for at, site in enumerate(model.sites)
    ]
    with torch.no_grad():
        for inputs in plain_inputs(model.model, TASK):
            model.model(**inputs)
    for handle in handles:
        handle.remove()
    return kept


@every_family
def test_mean_ablation_gives_each_token_the_heads_mean_over_all_tokens(name):
    model = model_of(name)
    before, _ = plain(name, ())
    means = [torch.cat(layer).mean(dim=0) for layer in contexts(model)]

    found = ablate_heads(model, TASK, "mean", resamples=20)

    for layer, head in ((0, 1), (1, 2)):
        projection = model.model.get_submodule(model.sites[layer].name)

        def replace(_, args, layer=layer, head=head):
            heads = args[0].reshape(*args[0].shape[:2], HEADS, -1).clone()
            heads[:, :, head] = means[layer][head]
            return (heads.reshape(args[0].shape),)

        handle = projection.register_forward_pre_hook(replace)
        with torch.no_grad():
            ran = [model.model(**inputs) for inputs in plain_inputs(model.model, TASK)]
        handle.remove()
        said = np.array([int(each.logits.argmax()) for each in ran])
        losses = np.array([float(each.loss) for each in ran])
        assert np.allclose(found.outcomes((layer, head)).losses, losses, atol=1e-5)
        assert found.score_change[layer, head] == pytest.approx(accuracy(said) - accuracy(before))
    assert found.ablation == "mean"
    assert "mean ablation" in found.score_change.method
    assert not np.allclose(found.loss_change.values, report_of(name).loss_change.values)


def test_the_planted_head_gives_its_mean_quality_to_all():
    found = ablate_heads(shared(Head(1, 2)), QUALITY, "mean")

    assert found.drop.rank(Head(1, 2)) == 0
    assert len(np.unique(found.outcomes((1, 2)).predictions)) == 1
    assert set(found.score_change.values[found.score_change.values == 0.0].tolist()) == {0.0}
    assert np.count_nonzero(found.score_change.values) == 1


def test_resampled_ablation_depends_on_the_seed():
    one, again, other = (
        ablate_heads(model_of("bert"), TASK, "resample", seed=seed, resamples=20) for seed in (1, 1, 2)
    )

    assert np.array_equal(one.loss_change.values, again.loss_change.values)
    assert not np.array_equal(one.loss_change.values, other.loss_change.values)


def test_all_but_one_takes_the_mean_of_the_others():
    zero, mean = (ablate_all_but_one(model_of("bert"), TASK, ablation) for ablation in ("zero", "mean"))

    assert not np.allclose(zero.outcomes((0, 0)).losses, mean.outcomes((0, 0)).losses)
    assert mean.ablation == "mean"


# -- significance ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "f1", "f1_micro", "matthews", "loss"])
def test_p_values_are_those_of_a_plain_loop_over_resamples(metric):
    model = model_of("bert")
    found = ablate_heads(model, TASK.with_metric(metric), resamples=60, seed=3)
    counts = np.concatenate(list(resample_counts(len(TASK), 60, 3)))

    labels, score = np.array(TASK.labels), _plain_metric(metric)
    for head in list(model.heads)[:4]:
        results = [plain("bert", ()), plain("bert", (head,))]

        def change(positions, results=results):
            scores = [score(labels[positions], said[positions], loss[positions]) for said, loss in results]
            return scores[1] - scores[0]

        observed = change(np.arange(len(TASK)))
        drawn = [change(np.repeat(np.arange(len(TASK)), row.astype(int))) for row in counts]
        extreme = sum(abs(one - observed) >= abs(observed) - 1e-9 for one in drawn)
        assert found.score_change[head] == pytest.approx(observed, abs=1e-5)
        assert found.p_values[head] == pytest.approx((1 + extreme) / 61, abs=1 / 61 + 1e-9)


def _plain_metric(name):
    return {
        "accuracy": lambda labels, said, losses: np.mean(labels == said),
        "f1": lambda labels, said, losses: f1_score(labels, said, average="macro", zero_division=0),
        "f1_micro": lambda labels, said, losses: f1_score(labels, said, average="micro", zero_division=0),
        "matthews": lambda labels, said, losses: matthews_corrcoef(labels, said),
        "loss": lambda labels, said, losses: np.mean(losses),
    }[name]


@pytest.mark.parametrize("kind", ["token-classification", "masked-lm"])
def test_resamples_of_tokens_are_resamples_of_their_examples(kind):
    model, task = under_test("bert", kind), task_for(kind, 12)
    metrics = {"token-classification": ("accuracy", "f1", "matthews", "loss"), "masked-lm": ("perplexity", "accuracy")}
    for metric in metrics[kind]:
        found = ablate_heads(model, task.with_metric(metric), resamples=30, seed=1)

        for head in list(model.heads)[:2]:
            before, after, extreme = found.baseline, found.outcomes(head), 0
            observed = after.score - before.score
            for row in np.concatenate(list(resample_counts(len(task), 30, 1))):
                positions = np.repeat(np.arange(len(task)), row.astype(int))
                drawn = after.resampled(positions) - before.resampled(positions)
                extreme += abs(drawn - observed) >= abs(observed) - 1e-9
            assert found.p_values[head] == pytest.approx((1 + extreme) / 31 if observed else 1.0)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_correlations_of_regressions_are_resampled(metric):
    model = under_test("bert", num_labels=1, problem_type="regression")
    texts = task_for("sequence-classification", 20).texts
    values = tuple(float(x) for x in evaluate_values(model, texts) + np.random.default_rng(1).normal(0, 0.5, 20))
    task = Task("numbers", "regression", texts, values, metric=metric)

    found = ablate_heads(model, task, resamples=40, seed=2)

    of = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[metric]
    head = found.drop.top(1)[0]
    said = [found.baseline.predictions, found.outcomes(head).predictions]

    def change(positions):
        before, after = (of(np.array(values)[positions], each[positions])[0] for each in said)
        return after - before

    observed = change(np.arange(20))
    drawn = [
        change(np.repeat(np.arange(20), row.astype(int))) for row in np.concatenate(list(resample_counts(20, 40, 2)))
    ]
    extreme = sum(abs(one - observed) >= abs(observed) for one in drawn)
    assert found.score_change[head] == pytest.approx(observed, abs=1e-6)
    assert found.p_values[head] == pytest.approx((1 + extreme) / 41)


def evaluate_values(model, texts):
    numbered = Task("n", "regression", texts, tuple(map(float, range(len(texts)))))
    return np.array(evaluate(model, numbered).predictions)


def test_p_values_lie_near_the_exact_test_of_discordant_pairs():
    found = ablate_heads(model_of("bert"), TASK, resamples=4000)

    before, _ = plain("bert", ())
    right = before == np.array(TASK.labels)
    for head in model_of("bert").heads:
        now = plain("bert", (head,))[0] == np.array(TASK.labels)
        worse, better = int((right & ~now).sum()), int((~right & now).sum())
        if worse != better:
            exact = stats.binomtest(worse, worse + better).pvalue
            # Resampling knows nothing of the tail of few examples: it may halve a p-value, and no more.
            assert 0.3 * exact < found.p_values[head] < 2 * exact + 0.05


def test_seeds_repeat_and_differ():
    one, again, other = (ablate_heads(model_of("bert"), TASK, resamples=200, seed=seed) for seed in (1, 1, 2))

    assert np.array_equal(one.p_values.values, again.p_values.values)
    assert not np.array_equal(one.p_values.values, other.p_values.values)
    assert one.p_values.values.min() >= 1 / 201


def test_corrections_allow_for_the_heads_tested():
    reports = {
        name: ablate_heads(model_of("bert"), TASK, correction=name) for name in ("holm", "bonferroni", "fdr", None)
    }

    raw, m = reports[None].p_values.values, LAYERS * HEADS
    assert np.array_equal(reports[None].adjusted_p_values.values, raw)
    assert np.allclose(reports["bonferroni"].adjusted_p_values.values, np.minimum(1, raw * m))
    assert np.allclose(reports["fdr"].adjusted_p_values.values, stats.false_discovery_control(raw))
    assert (reports["holm"].adjusted_p_values.values >= raw).all()
    assert (reports["holm"].adjusted_p_values.values <= reports["bonferroni"].adjusted_p_values.values + 1e-12).all()


def test_heads_masked_before_are_no_tests():
    model = shared(Head(1, 2))
    masked = [head for head in model.heads if head not in ((1, 2), (0, 0))]

    with model.masked(masked):
        found = ablate_heads(model, QUALITY, correction="bonferroni")

    assert found.adjusted_p_values[1, 2] == 2 * found.p_values[1, 2]
    assert found.significant() == ((1, 2),)


def test_by_default_there_are_resamples_enough_to_find_a_head():
    found = ablate_heads(shared(Head(1, 2)), QUALITY)

    assert found.resamples == 1200
    assert len(found.tested) / (found.resamples + 1) < 0.05


@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
def test_too_few_resamples_to_find_any_head_are_told(correction):
    found = ablate_heads(shared(Head(1, 2)), QUALITY, resamples=100, correction=correction)

    with pytest.raises(NothingToJudge, match=r"100 resamples .* 12 heads.*resamples=2400"):
        found.significant()
    assert found.significant(0.2) == ((1, 2),)


def test_a_metric_of_ones_own_is_resampled_one_by_one():
    def share_of_first(labels, predictions):
        return float(np.mean(predictions == 0))

    found = ablate_heads(shared(Head(1, 2)), QUALITY.with_metric(share_of_first), correction=None)

    assert found.resamples == 1000
    assert found.score_change[1, 2] == 0.5
    assert found.p_values[1, 2] == pytest.approx(1 / 1001)


# -- the report --------------------------------------------------------------------------------------------------


def test_the_table_lists_what_costs_most_first():
    found = ablate_heads(shared(Head(1, 2)), QUALITY)

    title, header, first, second = found.table(2).splitlines()

    assert "accuracy 1.0000 on 24 examples" in title
    assert "1200 resamples" in title
    assert header.split() == ["head", "score", "change", "loss", "p", "corrected"]
    assert first.split()[:3] == ["L1H2", "0.5000", "-0.5000"]
    assert second.split()[1:3] == ["1.0000", "+0.0000"]
    assert len(found.table().splitlines()) == 2 + 12
    assert "L1H2: -0.5000" in repr(found)


def test_equal_changes_of_score_are_listed_by_the_rise_of_the_loss():
    report = report_of("bert")
    tied = replace(report, score_change=HeadScores(np.zeros(8), report.score_change.heads, "none"))
    listed = [line.split()[0] for line in tied.table().splitlines()[2:]]

    assert listed == [str(head) for head in report.loss_change.ranking]
    assert [line.split()[0] for line in tied.table(3).splitlines()[2:]] == listed[:3]


def test_of_equal_heads_the_best_of_a_layer_is_that_of_the_lowest_loss():
    report = ablate_all_but_one(model_of("bert"), TASK.with_metric(lambda labels, predictions: 0.5))

    for best in report.best:
        heads = [Head(best.head.layer, head) for head in range(HEADS)]
        losses = {head: report.outcomes(head).losses.mean() for head in heads}
        assert best.head == min(losses, key=losses.get)


def test_the_arrays_have_the_shape_of_the_heads():
    found = report_of("bert")

    assert isinstance(found, AblationReport)
    assert found.score_change.to_numpy().shape == (LAYERS, HEADS)
    assert found.p_values.heads == model_of("bert").heads
    assert "accuracy" in found.score_change.method


def test_it_is_announced_once():
    heard = []

    with listening(heard.append):
        found = ablate_heads(shared(Head(1, 2)), task=QUALITY)

    (one,) = heard
    assert one.value is found
    assert (one.kind, one.task) == ("ablation", "quality")


# -- all but one -------------------------------------------------------------------------------------------------


@every_family
def test_each_score_is_that_of_the_model_with_the_rest_of_the_layer_zeroed(name):
    model = model_of(name)

    found = ablate_all_but_one(model, TASK)

    for head in model.heads:
        others = tuple(other for other in model.heads if other.layer == head.layer and other != head)
        said, _ = plain(name, others)
        assert found.scores[head] == accuracy(said)
        assert found.score_change[head] == pytest.approx(accuracy(said) - accuracy(plain(name, ())[0]))
        assert found.outcomes(head).mask == HeadMask.without(model.heads, others)
    assert [best.of for best in found.best] == [HEADS] * LAYERS
    for best in found.best:
        layer = [found.scores[head] for head in model.heads if head.layer == best.head.layer]
        assert best.score == max(layer) == found.scores[best.head]
        assert best.change == found.score_change[best.head]


def test_the_planted_head_is_the_best_of_its_layer():
    found = ablate_all_but_one(shared(Head(1, 2)), QUALITY)

    assert [found.scores[1, head] for head in range(4)] == [0.5, 0.5, 1.0, 0.5]
    assert found.best[1].head == (1, 2)
    assert {found.scores[layer, head] for layer in (0, 2) for head in range(4)} == {1.0}
    assert found.table().splitlines()[3].split() == ["L1H2", "1.0000", "+0.0000", "4"]


def test_a_layer_of_one_head_has_nothing_to_ablate():
    model = under_test("bert").pruned([(0, 0), (0, 1), (0, 2), (1, 1)])

    found = ablate_all_but_one(model, TASK)

    assert found.scores.heads == HeadMap([1, 3], model.plan.kept)
    assert found.scores[0, 0] == found.baseline.score
    assert found.best[0] == (Head(0, 0), found.baseline.score, 0.0, 1)
    assert "nothing to ablate" in found.table().splitlines()[2]


def test_where_all_layers_have_one_head_all_is_baseline():
    model = under_test("bert").pruned([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)])

    found = ablate_all_but_one(model, TASK)

    assert set(found.score_change.values) == {0.0}
    assert [best.of for best in found.best] == [1, 1]


def test_a_masked_head_is_never_the_best():
    model = planted_model(Head(1, 2), twin=0)

    with model.masked([(1, 0)]):
        found = ablate_all_but_one(model, QUALITY)

    assert found.best[1] == (Head(1, 2), 1.0, 0.0, 3)
    assert found.scores[1, 0] == 0.5


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"ablation": "noise"}, "zero, mean, resample"),
        ({"correction": "sidak"}, "holm, bonferroni, fdr, or None"),
        ({"resamples": 0}, "from 1"),
        ({"resamples": 2.5}, "from 1"),
        ({"resamples": True}, "from 1"),
    ],
)
def test_invalid_arguments_are_refused(options, what):
    with pytest.raises(InvalidArgument, match=what):
        ablate_heads(shared(Head(1, 2)), QUALITY, **options)


@pytest.mark.parametrize("alpha", [0.0, 1.0, True, "0.05"])
def test_an_alpha_that_is_none_is_refused(alpha):
    with pytest.raises(InvalidArgument, match="between 0 and 1"):
        report_of("bert").significant(alpha)


def test_a_mask_that_does_nothing_is_refused(monkeypatch):
    model = model_of("bert")
    monkeypatch.setattr(
        ablation, "under", lambda m, task, base, masks, *_: (same := evaluate(m, task), tuple(same for _ in masks))
    )

    with pytest.raises(MaskNotApplied, match="L0H0"):
        ablate_heads(model, TASK)


def test_a_score_that_is_undefined_names_the_head():
    live = family("bert", num_labels=1, problem_type="regression")
    with torch.no_grad():  # without its one working head, all outputs are equal
        for layer in live.bert.encoder.layer:
            layer.attention.output.dense.weight.zero_()
            layer.output.dense.weight.zero_()
        for table in (live.bert.embeddings.position_embeddings, live.bert.embeddings.token_type_embeddings):
            table.weight.zero_()
        live.bert.encoder.layer[1].attention.output.dense.weight[:, 6:12] = torch.eye(24)[:, :6]
    model = load_model(live, tokenizer=tokenizer())
    texts = task_for("sequence-classification", 10).texts
    task = Task("numbers", "regression", texts, tuple(map(float, range(10))))

    with pytest.raises(UndefinedScore, match="pearson without L1H1"):
        ablate_heads(model, task)


# -- a trained model ---------------------------------------------------------------------------------------------


@pytest.mark.assets
def test_heads_of_a_trained_model_are_ablated_as_by_zeroed_weights(assets):
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    task = load_task(assets / "data" / "sst2" / "dev.tsv").subset(range(0, 872, 73))

    found = ablate_heads(model, task)

    assert found.resamples == 7200
    for head in ((0, 2), (3, 9), (5, 11)):
        twin, losses = zeroed(model, [head]), []
        for text, label in zip(task.texts, task.labels, strict=True):
            inputs = model.tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                losses.append(float(twin(**inputs, labels=torch.tensor([int(label)])).loss))
        assert np.allclose(found.outcomes(head).losses, losses, atol=1e-4)
    few = [head for head in model.heads if found.p_values[head] < 1.0]
    assert len(few) < 30  # a trained model has spare heads: most change no prediction of so few
