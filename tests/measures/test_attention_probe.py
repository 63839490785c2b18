"""The probe against a plain one: torch's autograd and scipy's general minimiser on eager attention in float64.

And a planted model in which three heads together know the whole tree.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import optimize

from pytest_bertology import Batching, attention_probe, head_relations, read_conllu
from pytest_bertology.engine.store import ResultStore, using_store
from pytest_bertology.engine.words import read_words
from pytest_bertology.errors import (
    BertologyWarning,
    InvalidArgument,
    MalformedData,
    TooMuchMemory,
    UndefinedScore,
)
from pytest_bertology.measures.probe_fit import Pairs, fit, objective
from pytest_bertology.measures.probe_random import with_random_weights
from pytest_bertology.measures.relation_cases import dependencies
from tests.families import family, under_test
from tests.measures.test_relations import trees, word_maps
from tests.planted_roles import CASE, DET, VERB, role_model, role_sentences, sentence_encoder

PENALTY = 1e-3


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.fixture(scope="module")
def planted():
    return role_model()


def eager_maps(model, sentences):
    """For each sentence (heads, words, words), token by token and character by character."""
    plain = copy.deepcopy(model.model)
    plain.set_attn_implementation("eager")
    found = []
    for each in sentences:
        inputs = model.tokenizer(each.text, return_tensors="pt", return_offsets_mapping=True)
        offsets = [tuple(map(int, pair)) for pair in inputs.pop("offset_mapping")[0]]
        with torch.no_grad():
            layers = plain(**inputs, output_attentions=True).attentions
        found.append(np.stack([word_maps(head.numpy(), offsets, each.spans) for layer in layers for head in layer[0]]))
    return found


def plain_loss(theta, maps, sentences, scale, penalty=PENALTY):
    """Word by word, as the paper has it."""
    to_head, from_head = (theta.reshape(2, -1) / torch.as_tensor(scale)).unbind(0)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for found, each in zip(maps, sentences, strict=True):
        attention = torch.as_tensor(found)
        for word, head in enumerate(each.heads):
            if head < 0:
                continue
            others = [other for other in range(len(each)) if other != word]
            scores = torch.stack([to_head @ attention[:, word, i] + from_head @ attention[:, i, word] for i in others])
            total = total - scores.log_softmax(dim=0)[others.index(head)]
            count += 1
    return total / count + 0.5 * penalty * (theta @ theta)


def spread(maps):
    """Of attention between different words."""
    off = [found[:, ~np.eye(found.shape[-1], dtype=bool)] for found in maps]
    return np.concatenate(off, axis=1).std(axis=1)


def held(model, sentences, maps):
    words = read_words(model, sentences, what="a test")
    return np.concatenate([found.reshape(len(found), -1) for found in maps], axis=1), Pairs(
        words, dependencies(words, False)
    )


# -- the fit -----------------------------------------------------------------------------------------------------


def test_loss_and_gradient_are_those_of_autograd():
    model, sentences = under_test("bert", dtype=torch.float64), trees(12)
    maps = eager_maps(model, sentences)
    theta = torch.randn(2 * len(model.heads), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theta.requires_grad_()
    expected = plain_loss(theta, maps, sentences, spread(maps))
    expected.backward()

    loss, gradient = objective(theta.detach().numpy(), *held(model, sentences, maps), spread(maps), PENALTY)

    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert np.allclose(gradient, theta.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_the_weights_are_those_of_a_general_minimiser():
    model, sentences = under_test("bert", dtype=torch.float64), trees(25)
    maps = eager_maps(model, sentences)
    scale = spread(maps)

    def loss_and_gradient(theta):
        theta = torch.tensor(theta, requires_grad=True)
        loss = plain_loss(theta, maps, sentences, scale)
        loss.backward()
        return loss.item(), theta.grad.numpy()

    start = np.zeros(2 * len(model.heads))
    expected = optimize.minimize(loss_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-7})

    weights, loss = fit(*held(model, sentences, maps), PENALTY, "a test")

    assert loss == pytest.approx(expected.fun, rel=1e-9)
    assert np.allclose(weights, expected.x.reshape(2, -1) / scale, atol=1e-3 * np.abs(weights).max())


def test_uas_is_that_of_a_plain_probe():
    model, train, report_on = under_test("bert", dtype=torch.float64), trees(30), trees(30, seed=1)
    maps = eager_maps(model, train)
    weights, _ = fit(*held(model, train, maps), PENALTY, "a test")
    right, relations = [], []
    for found, each in zip(eager_maps(model, report_on), report_on, strict=True):
        for word, head in enumerate(each.heads):
            if head >= 0:
                scores = [
                    -np.inf if i == word else weights[0] @ found[:, word, i] + weights[1] @ found[:, i, word]
                    for i in range(len(each))
                ]
                right.append(int(np.argmax(scores)) == head)
                relations.append(each.base_relations[word])

    found = attention_probe(model, report_on, train=train, random_model=False, penalty=PENALTY)

    assert len(found) == len(right)
    assert found.uas == np.mean(right)
    assert found.relations == {
        name: pytest.approx(np.mean([r for r, n in zip(right, relations, strict=True) if n == name]))
        for name in set(relations)
    }
    assert np.allclose(found.to_head.values, weights[0], rtol=1e-3, atol=1e-3)
    assert np.allclose(found.from_head.values, weights[1], rtol=1e-3, atol=1e-3)


def test_head_and_offset_are_those_that_relations_choose():
    model, train, report_on = under_test("bert"), trees(30), trees(30, seed=1)
    relations = head_relations(model, report_on, select=train, min_cases=1)

    found = attention_probe(model, report_on, train=train, random_model=False)

    best, offset = relations.best("all"), relations.offset_baseline("all")
    assert (found.best_head, found.direction, found.head_uas) == (best.head, best.direction, best.accuracy)
    assert (found.offset, found.offset_uas) == (offset.offset, offset.accuracy)
    assert found.interval_of("offset") == offset.interval


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("budget", [1, 40])
def test_neither_batches_nor_padding_nor_order_matter(side, budget):
    model, train, report_on = under_test("bert", dtype=torch.float64), trees(20), trees(20, seed=1)
    expected = attention_probe(model, report_on, train=train)

    batching = Batching(tokens=budget, padding_side=side)
    found = attention_probe(model, report_on[::-1], train=train[::-1], batching=batching)

    assert (found.uas, found.head_uas, found.random_uas) == (expected.uas, expected.head_uas, expected.random_uas)
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    assert found.interval == pytest.approx(expected.interval)


def test_causal_models_are_probed():
    found = attention_probe(under_test("gpt2", "causal-lm"), trees(20), train=trees(20, seed=1))

    assert 0.0 < found.uas < 1.0


# -- the planted model -------------------------------------------------------------------------------------------


def test_three_planted_heads_together_know_the_tree(planted):
    found = attention_probe(planted, role_sentences(60, seed=1), train=role_sentences(60))

    assert found.uas == 1.0
    assert max(found.head_uas, found.random_uas, found.offset_uas) < 0.6
    assert set(found.to_head.top(2)) == {DET, VERB}
    assert found.from_head.top(1) == [CASE]
    assert found.lead("random").interval[0] > 0.3
    assert set(found.relations.values()) == {1.0}


def test_a_masked_head_looks_where_it_did(planted):
    """A head's gate acts on what it writes, and not on where it looks: the heads planted write nothing."""
    expected = attention_probe(planted, role_sentences(60), random_model=False)

    with planted.masked([DET]):
        found = attention_probe(planted, role_sentences(60), random_model=False)

    assert found.uas == expected.uas == 1.0


def test_the_table_holds_what_was_found(planted):
    found = attention_probe(planted, role_sentences(60))

    lines = found.table(min_cases=1).splitlines()

    assert lines[2].split()[:2] == ["probe", f"{found.uas:.3f}"]
    assert lines[3].startswith(f"best head {found.best_head} {found.direction}")
    assert lines[4].startswith(f"best offset {found.offset:+d}")
    assert lines[5].split()[2] == f"{found.random_uas:.3f}"
    assert {line.split()[0] for line in lines[8:]} == {"det", "case", "obl"}
    assert repr(found).endswith(f"random weights {found.random_uas:.3f})")


# -- random weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("bert", "masked-lm"), ("gpt2", "causal-lm"), ("llama", "causal-lm")])
def test_random_weights_are_as_the_architecture_draws_them(name, kind):
    model = under_test(name, kind)
    torch.manual_seed(0)
    fresh = dict(type(model.model)(model.model.config).named_parameters())
    before = {n: p.clone() for n, p in model.model.named_parameters()}

    twin = with_random_weights(model, 0)

    for key, parameter in twin.model.named_parameters():
        assert parameter.std(correction=0).item() == pytest.approx(
            fresh[key].std(correction=0).item(), rel=0.2, abs=1e-6
        )
        assert parameter.mean().item() == pytest.approx(fresh[key].mean().item(), abs=0.01)
    assert all(torch.equal(p, before[n]) for n, p in model.model.named_parameters())
    assert twin.model is not model.model


def test_random_weights_are_those_of_their_seed():
    model = under_test("bert")
    state = torch.random.get_rng_state()

    one, same, other = (dict(with_random_weights(model, seed).model.named_parameters()) for seed in (1, 1, 2))

    assert all(torch.equal(one[name], same[name]) for name in one)
    drawn = [name for name in one if one[name].ndim > 1]
    assert not any(torch.equal(one[name], other[name]) for name in drawn)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_weights_that_were_loaded_are_drawn_anew(tmp_path):
    """transformers marks loaded weights, so as not to initialise them."""
    from pytest_bertology import load_model
    from tests.families import tokenizer

    family("bert").save_pretrained(tmp_path)
    model = load_model(tmp_path, tokenizer=tokenizer())

    twin = with_random_weights(model, 0)

    kept = dict(model.model.named_parameters())
    assert not [n for n, p in twin.model.named_parameters() if p.ndim > 1 and torch.equal(p, kept[n])]


def test_under_a_mask_the_copy_is_of_the_unmasked_model():
    model = under_test("bert")
    plain = attention_probe(model, trees(10))

    with model.masked([(0, 1)]):
        masked = attention_probe(model, trees(10))

    assert masked.random_uas == plain.random_uas


# -- sentences ---------------------------------------------------------------------------------------------------


def test_every_second_sentence_is_reported_on():
    model, sentences = under_test("bert"), trees(20)

    found = attention_probe(model, sentences, random_model=False)

    expected = attention_probe(model, sentences[1::2], train=sentences[::2], random_model=False)
    assert (found.uas, found.loss, found.sentences) == (expected.uas, expected.loss, 10)


def test_sentences_reported_on_train_nothing():
    model, sentences = under_test("bert"), trees(20)

    found = attention_probe(model, sentences[:10], train=sentences, random_model=False)

    expected = attention_probe(model, sentences[:10], train=sentences[10:], random_model=False)
    assert (found.trained_on, found.loss) == (10, expected.loss)
    with pytest.raises(InvalidArgument, match="not all among those reported on"):
        attention_probe(model, sentences, train=sentences[:5])


def test_of_many_training_sentences_some_are_drawn_with_the_seed():
    model, sentences = under_test("bert"), trees(40)

    def trained(seed):
        return attention_probe(model, sentences[:10], train=sentences[10:], sentences=12, seed=seed, random_model=False)

    assert trained(0).trained_on == 12
    assert trained(0).loss == trained(0).loss
    assert trained(0).loss != trained(1).loss


def test_results_are_stored():
    model, sentences = under_test("bert"), trees(20)
    with using_store(ResultStore()) as store:
        first = attention_probe(model, sentences)
        again = attention_probe(model, sentences)
        assert (store.computed, store.reused) == (2, 2)
        attention_probe(model, sentences, penalty=0.1, random_model=False)
        assert store.computed == 3

    assert (first.uas, first.random_uas, first.loss) == (again.uas, again.random_uas, again.loss)


def test_words_cut_off_are_not_asked_for():
    model, short = under_test("bert"), trees(6)
    long = next(s for s in trees(60, seed=5, longest=60) if len(s) > 45)

    with pytest.warns(BertologyWarning, match="were cut"):
        found = attention_probe(model, [long, *short], train=trees(6, seed=1), random_model=False)

    assert found.skipped > 0
    assert f"{found.skipped} words are not judged" in found.table()
    assert len(found) + found.skipped == sum(len(s) - 1 for s in [long, *short])


def test_a_limit_of_memory_is_kept():
    model, sentences = under_test("bert"), trees(20)
    needed = 4 * len(model.heads) * sum(len(s) ** 2 for s in sentences[::2])

    attention_probe(model, sentences, random_model=False, limit=needed)
    with pytest.raises(TooMuchMemory, match=r"Train on fewer, with sentences=\d"):
        attention_probe(model, sentences, limit=needed - 1)


def test_sentences_of_roots_alone_have_no_uas():
    roots = read_conllu([[{"id": 1, "form": word, "head": 0, "deprel": "root"}] for word in "abcd"])

    with pytest.raises(UndefinedScore, match="all are roots"):
        attention_probe(under_test("bert"), roots)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sentences": 0}, "sentences=0"),
        ({"penalty": 0.0}, "penalty=0.0"),
        ({"confidence": 1.0}, "confidence=1.0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, said):
    with pytest.raises(InvalidArgument, match=said):
        attention_probe(under_test("bert"), trees(10), **options)


def test_reports_refuse_what_they_do_not_know():
    found = attention_probe(under_test("bert"), trees(10), random_model=False)

    with pytest.raises(UndefinedScore, match="random_model was False"):
        _ = found.random_uas
    with pytest.raises(InvalidArgument, match="way='coin'"):
        found.lead("coin")
    with pytest.raises(InvalidArgument, match="relation='iobj'"):
        found.relation("iobj")
    assert found.ways == ("probe", "head", "offset")


def test_one_sentence_is_not_split(tmp_path):
    with pytest.raises(InvalidArgument, match="two sentences or more"):
        attention_probe(under_test("bert"), trees(1))
    broken = tmp_path / "broken.conllu"
    broken.write_text("1\ta\n")
    with pytest.raises(MalformedData, match=r"broken.conllu: line 1 has 2 fields"):
        attention_probe(under_test("bert"), broken)


# -- a real model ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.assets
def test_a_real_model_knows_more_of_trees_than_offsets_and_random_weights(assets):
    folder = assets / "data" / "ud_ewt"
    dev, train = (read_conllu(folder / f"en_ewt-ud-{part}.conllu") for part in ("dev", "train-subset"))

    found = attention_probe(sentence_encoder(), dev[:120], train=train, sentences=150)

    assert found.uas == pytest.approx(0.55, abs=0.05)
    assert found.lead("head").interval[0] > 0.0
    assert found.lead("offset").interval[0] > 0.15
    assert found.lead("random").interval[0] > 0.25
