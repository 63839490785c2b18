"""Divergence of heads. Oracle: scipy's Jensen-Shannon distance, squared, row by row of eager `output_attentions`."""

from __future__ import annotations

import copy
import inspect
import itertools

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import jensenshannon, squareform

from pytest_bertology import Batching, Head, ResultStore, load_model, load_task, using_store
from pytest_bertology.errors import CannotMeasure, EmptyTask, InvalidArgument, NothingToJudge, UnknownHead
from pytest_bertology.measures import held_weights
from pytest_bertology.measures.divergence import HeadDivergence, divergences, head_divergence, negative_entropies
from tests.families import FAMILIES, few, redraw, texts, tokenizer, under_test

LETTERS = texts(8)


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


def maps_of(model, text, decoder=False):
    """(layers · heads, tokens, tokens) by eager attention."""
    twin = copy.deepcopy(model.model)
    twin.set_attn_implementation("eager")
    known = inspect.signature(twin.forward).parameters
    inputs = {name: value for name, value in model.tokenizer(text, return_tensors="pt").items() if name in known}
    if decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        result = twin(**inputs, output_attentions=True)
    names = ["encoder_attentions", "decoder_attentions", "cross_attentions"] if decoder else ["attentions"]
    return np.concatenate([layer[0].numpy() for name in names for layer in result[name]])


def by_scipy(maps):
    """(heads, heads) summed over the rows of every text, in nats."""
    count = len(maps[0])
    found = np.zeros((count, count))
    for each in maps:
        for a, b in itertools.combinations(range(count), 2):
            with np.errstate(invalid="ignore"):  # scipy takes the root of what rounding leaves below zero
                distances = np.nan_to_num(jensenshannon(each[a], each[b], axis=1))
            found[a, b] = found[b, a] = found[a, b] + (distances**2).sum()
    return found


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", FAMILIES)
def test_divergence_is_scipys_on_eager_attention(name, side):
    model = under_test(name, FAMILIES[name][-1], dtype=torch.float64)
    expected = by_scipy([maps_of(model, text) for text in LETTERS])

    found = head_divergence(model, LETTERS, batching=Batching(tokens=60, padding_side=side))

    tokens = sum(len(model.tokenizer(text).input_ids) for text in LETTERS)
    assert found.tokens == tokens
    limit = 1e-7 if name == "llama" else 1e-11  # eager Llama's softmax is in float32, whatever its weights are
    assert np.allclose(found.mean, expected / tokens, rtol=0, atol=limit)
    assert np.allclose(found.sum, expected, rtol=0, atol=limit * tokens)
    assert found.heads == tuple(model.heads)


def test_heads_of_encoder_decoder_and_cross_attention_are_compared():
    config = transformers.BartConfig(
        vocab_size=64, d_model=24, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2,
    )  # fmt: skip
    plain = redraw(transformers.BartModel(config), 0).double().eval()
    model = load_model(plain, tokenizer=tokenizer())
    expected = by_scipy([maps_of(model, text, decoder=True) for text in LETTERS])

    found = head_divergence(model, LETTERS, batching=Batching(tokens=40))

    assert {head.stack for head in found.heads} == {"encoder", "decoder", "cross"}
    order = [found.heads.index(head) for head in sorted(found.heads, key=_stack)]
    assert np.allclose(found.sum[np.ix_(order, order)], expected, rtol=0, atol=1e-9)


def _stack(head):
    return ["encoder", "decoder", "cross"].index(head.stack), head.layer, head.head


def test_of_a_layer_that_runs_several_times_each_run_counts():
    config = transformers.AlbertConfig(
        vocab_size=64, embedding_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=40,
    )  # fmt: skip
    plain = redraw(transformers.AlbertModel(config), 0).double().eval()
    model = load_model(plain, tokenizer=tokenizer())
    expected = by_scipy([run for text in LETTERS for run in np.split(maps_of(model, text), 3)])

    found = head_divergence(model, LETTERS)

    assert np.allclose(found.sum, expected, rtol=0, atol=1e-9)
    assert found.mean.max() <= np.log(2)
    assert found.tokens == 3 * sum(len(model.tokenizer(text).input_ids) for text in LETTERS)


def test_layers_that_run_unequally_often_cannot_be_compared():
    config = transformers.AlbertConfig(
        vocab_size=64, embedding_size=8, hidden_size=24, num_hidden_layers=3, num_hidden_groups=2,
        num_attention_heads=4, intermediate_size=32, max_position_embeddings=40,
    )  # fmt: skip
    model = load_model(redraw(transformers.AlbertModel(config), 0).eval(), tokenizer=tokenizer())

    with pytest.raises(CannotMeasure, match="run 1 times in one pass, others 2 times"):
        head_divergence(model, LETTERS)


@pytest.mark.parametrize("held", [1, 5_000, 40_000])
@pytest.mark.parametrize("budget", [1, 70])
def test_neither_batches_nor_how_much_is_held_matter(held, budget, monkeypatch):
    model = under_test("gpt2", "causal-lm", dtype=torch.float64)
    expected = head_divergence(model, LETTERS)
    monkeypatch.setattr(held_weights, "HELD", held)

    found = head_divergence(model, LETTERS, batching=Batching(tokens=budget))

    assert np.allclose(found.sum, expected.sum, rtol=0, atol=1e-9)


def test_order_of_texts_does_not_matter():
    model = under_test("bert", dtype=torch.float64)

    found = head_divergence(model, LETTERS[::-1])

    assert np.allclose(found.sum, head_divergence(model, LETTERS).sum, rtol=0, atol=1e-9)


def test_some_heads_alone():
    model = under_test("bert", dtype=torch.float64)
    whole = head_divergence(model, LETTERS)

    found = head_divergence(model, LETTERS, heads=[(1, 3), (0, 2), (1, 0)])

    assert found.heads == (Head(0, 2), Head(1, 0), Head(1, 3))
    assert found.between((0, 2), (1, 3)) == pytest.approx(whole.between((1, 3), (0, 2)), abs=1e-12)
    with pytest.raises(InvalidArgument, match="one of the 3 heads measured: L0H2, L1H0, L1H3"):
        found.between((0, 0), (1, 3))


def test_heads_of_the_same_weights_do_not_diverge():
    model = under_test("bert")
    attention = model.model.bert.encoder.layer[1].attention.self
    with torch.no_grad():
        for part in (attention.query, attention.key):
            part.weight[6:12], part.bias[6:12] = part.weight[18:24], part.bias[18:24]

    found = head_divergence(model, LETTERS)

    assert found.between((1, 1), (1, 3)) == pytest.approx(0.0, abs=1e-6)
    assert found.closest(1)[0][:2] == (Head(1, 1), Head(1, 3))
    assert found.closest(2)[1].divergence > 1e-3


def test_even_attention_and_attention_to_one_token():
    model = under_test("bert", dtype=torch.float64)
    layer = model.model.bert.encoder.layer[0].attention.self
    bert = model.model.bert.embeddings
    with torch.no_grad():
        for part in (layer.query, layer.key):
            part.weight[:12], part.bias[:12] = 0.0, 0.0
        bert.position_embeddings.weight.zero_()
        bert.word_embeddings.weight.zero_()
        bert.word_embeddings.weight[2, 0] = 5.0  # [CLS] alone has what the second head looks for
        layer.query.bias[6:12], layer.key.weight[6:12, 0] = 1.0, 40.0
    lengths = [len(model.tokenizer(text).input_ids) for text in LETTERS]

    found = head_divergence(model, LETTERS).sum[0, 1]

    # p = 1/n everywhere, q = 1 at one place: H(m) of (1 + 1/n) / 2 and n − 1 times 1 / 2n, less half of ln n.
    each = [_entropy([(1 + 1 / n) / 2] + [1 / (2 * n)] * (n - 1)) - np.log(n) / 2 for n in lengths]
    assert found == pytest.approx(sum(n * js for n, js in zip(lengths, each, strict=True)), rel=1e-6)


def _entropy(p):
    return -(np.array(p) * np.log(p)).sum()


@few
@given(st.integers(2, 6), st.integers(1, 5), st.integers(1, 9), st.floats(0.1, 30.0), st.integers(0, 10**6))
def test_of_any_maps_divergence_is_scipys_and_bounded(heads, rows, keys, sharpness, seed):
    draw = torch.Generator().manual_seed(seed)
    scores = sharpness * torch.randn(heads, rows, keys, generator=draw, dtype=torch.float64)
    scores = scores.masked_fill(torch.rand(scores.shape, generator=draw) < 0.2, -torch.inf)
    scores[..., 0] = scores[..., 0].nan_to_num(neginf=0.0)
    maps = scores.softmax(dim=-1)

    found = divergences(negative_entropies(maps.flatten(1)))

    assert np.allclose(found, by_scipy([maps.numpy()]), rtol=0, atol=1e-9)
    assert np.array_equal(found, found.T)
    assert (np.diagonal(found) == 0.0).all()
    assert found.max() <= rows * np.log(2) + 1e-12
    single = divergences(negative_entropies(maps.float().flatten(1)))
    assert np.allclose(single, found, rtol=0, atol=2e-6 * rows)


def test_divergence_under_a_mask_is_that_of_the_masked_model():
    model = under_test("bert")
    plain = head_divergence(model, LETTERS)

    with model.masked([(0, 0)]):
        masked = head_divergence(model, LETTERS)

    assert masked.between((0, 1), (0, 2)) == pytest.approx(plain.between((0, 1), (0, 2)), abs=1e-6)
    assert masked.between((1, 1), (1, 2)) != pytest.approx(plain.between((1, 1), (1, 2)), abs=1e-4)


def test_a_cut_models_heads_diverge_as_before():
    model = under_test("bert", dtype=torch.float64)
    gone = [(0, 1), (1, 0)]
    with model.masked(gone):
        expected = head_divergence(model, LETTERS, heads=[h for h in model.heads if h[:2] not in gone])

    found = head_divergence(model.pruned(gone), LETTERS)

    assert np.allclose(found.sum, expected.sum, rtol=0, atol=1e-8)


def test_the_same_is_measured_once():
    model = under_test("bert")
    with using_store(ResultStore()) as store:
        first = head_divergence(model, LETTERS)
        again = head_divergence(model, LETTERS)
        head_divergence(model, LETTERS, heads=[(0, 0), (0, 1)])

    assert (store.computed, store.reused) == (2, 1)
    assert np.array_equal(first.sum, again.sum)


def test_what_cannot_be_compared_is_refused():
    model = under_test("bert")

    with pytest.raises(NothingToJudge, match="1 head to compare"):
        head_divergence(model, LETTERS, heads=[(0, 0)])
    with pytest.raises(UnknownHead):
        head_divergence(model, LETTERS, heads=[(0, 0), (7, 0)])
    with pytest.raises(EmptyTask):
        head_divergence(model, [])
    with pytest.raises(InvalidArgument, match="load_model"):
        head_divergence(model.model, LETTERS)


@pytest.mark.assets
def test_on_real_sentences_divergence_is_scipys(assets):
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    task = load_task(assets / "data" / "sst2" / "dev.tsv").subset([0, 1, 7])
    heads = [(0, 2), (0, 7), (3, 1), (5, 11)]
    expected = by_scipy([maps_of(model, text)[[2, 7, 37, 71]] for text in task.texts])

    found = head_divergence(model, task, heads=heads)

    assert np.allclose(found.sum, expected, rtol=1e-4, atol=1e-4)
    assert found.closest(1)[0][:2] == (Head(0, 7), Head(5, 11))


# -- what is made of it ----------------------------------------------------------------------------------------------

NAMES = tuple(Head(layer, head) for layer in range(2) for head in range(3))


def given_mean(mean):
    return HeadDivergence(NAMES[: len(mean)], "planted", "none", 1, 10, 10 * np.array(mean, dtype=float))


def in_the_plane(points):
    points = np.array(points, dtype=float)
    return given_mean(np.linalg.norm(points[:, None] - points[None], axis=-1))


GROUPED = in_the_plane([(0, 0), (0.01, 0), (0.3, 0.2), (0.31, 0.2), (0.31, 0.21), (0.1, 0.5)])


def test_pairs_are_sorted_and_tables_say_what_they_are():
    found = given_mean([[0, 0.2, 0.1], [0.2, 0, 0.3], [0.1, 0.3, 0]])

    assert found.pairs() == [(NAMES[0], NAMES[2], 0.1), (NAMES[0], NAMES[1], 0.2), (NAMES[1], NAMES[2], 0.3)]
    assert found.closest(2) == found.pairs()[:2]
    assert found.table().splitlines() == [
        "Jensen-Shannon divergence between heads of planted on none: 1 texts, 10 tokens; mean per token, in nats "
        "(at most ln 2 = 0.6931)",
        "head     nearest        JS  to all others",
        "L0H0     L0H2       0.1000         0.1500",
        "L0H2     L0H0       0.1000         0.2000",
        "L0H1     L0H0       0.2000         0.2500",
    ]
    assert len(found.table(1).splitlines()) == 3
    assert repr(found) == "HeadDivergence(planted on none: 3 heads, 10 tokens; closest L0H0 and L0H2, 0.1000)"
    for k in (0, 1.5, "2"):
        with pytest.raises(InvalidArgument, match="k="):
            found.closest(k)


@pytest.mark.parametrize("method", ["mds", "classical"])
def test_points_of_a_plane_are_found_again(method):
    found = GROUPED.embedding(method)

    distances = np.linalg.norm(found.points[:, None] - found.points[None], axis=-1)
    assert np.allclose(distances, GROUPED.mean, atol=1e-5)
    assert found.stress < 1e-4
    assert np.allclose(found.points.mean(axis=0), 0.0)
    assert found.point((0, 1)) == tuple(found.points[1])


def test_scaling_fits_better_than_its_classical_start_and_is_the_same_for_the_same_seed():
    found = head_divergence(under_test("bert"), LETTERS)
    before = np.random.get_state()[1].copy()

    one, two = found.embedding(), found.embedding(seed=0)

    assert np.array_equal(one.points, two.points)
    assert one.stress < found.embedding("classical").stress
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("count", [2, 6])
def test_heads_that_are_all_the_same_are_one_point(count):
    found = given_mean(np.zeros((count, count))).embedding()

    assert np.array_equal(found.points, np.zeros((count, 2)))
    assert found.stress == 0.0


def test_two_heads_are_as_far_apart_as_they_diverge():
    found = given_mean([[0, 0.25], [0.25, 0]]).embedding()

    assert np.allclose(np.abs(found.points), [[0.125, 0], [0.125, 0]], atol=1e-6)


def test_an_embedding_is_shown_as_a_table():
    found = GROUPED.embedding()

    assert found.table().splitlines()[0] == "heads of planted on none in the plane, by mds: stress 0.000"
    assert len(found.table().splitlines()) == 8
    assert repr(found) == "HeadEmbedding(6 heads of planted by mds, stress 0.000)"
    with pytest.raises(InvalidArgument, match="one of mds, classical"):
        GROUPED.embedding("t-sne")
    with pytest.raises(InvalidArgument, match="seed"):
        GROUPED.embedding(seed=-1)
    with pytest.raises(InvalidArgument, match="head="):
        found.point((7, 7))


def test_groups_are_those_planted():
    found = GROUPED.clusters(3)

    assert found.labels == (0, 0, 1, 1, 1, 2)
    assert found.sizes == (2, 3, 1)
    assert found.medoids == (NAMES[0], NAMES[3], NAMES[5])
    assert found.within[0] == pytest.approx(0.01)
    assert found.within[2] == 0.0
    assert 0.7 < found.silhouette < 1.0
    assert found.of((1, 1)) == 1
    assert found.groups[0] == NAMES[:2]
    assert GROUPED.clusters(threshold=0.1).labels == found.labels
    assert found.table().splitlines()[2].startswith("    1     3  L1H0  ")


def test_groups_are_scipys_average_linkage():
    found = head_divergence(under_test("bert"), LETTERS)
    tree = linkage(squareform(found.mean, checks=False), "average")

    for n in range(1, 9):
        ours, theirs = found.clusters(n).labels, fcluster(tree, n, "maxclust")
        assert len(set(ours)) == n
        assert {(a, b) for a, b in zip(ours, theirs, strict=True)} == {(a, theirs[ours.index(a)]) for a in ours}


@pytest.mark.parametrize("n", [1, 6])
def test_one_group_or_a_head_in_each_has_no_silhouette(n):
    assert GROUPED.clusters(n).silhouette is None


@pytest.mark.parametrize(
    "wrong", [{}, {"n": 2, "threshold": 0.1}, {"n": 0}, {"n": 7}, {"threshold": 0.0}, {"threshold": 0.7}, {"n": "2"}]
)
def test_groups_need_either_a_number_or_a_threshold(wrong):
    with pytest.raises(InvalidArgument):
        GROUPED.clusters(**wrong)
