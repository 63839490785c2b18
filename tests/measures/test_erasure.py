"""Erasures against the formula of Belrose et al. written out in NumPy, scikit-learn's classifiers, planted models."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg
from sklearn.linear_model import LogisticRegression

from pytest_bertology import Erasure, erase, load_model, load_task, read_conllu
from pytest_bertology.errors import BertologyWarning, CannotErase, InvalidArgument, MalformedData
from pytest_bertology.measures import erasure
from pytest_bertology.measures.inlp import Labelled, inlp, random_directions
from pytest_bertology.measures.leace import leace
from tests.hooked import hooked
from tests.planted_layers import LAYERS, planted_layer_model, planted_layer_task

pytestmark = hooked


def drawn(seed=0, items=400, width=12, classes=4):
    """Correlated vectors in which the labels are linear, in more than one direction, and noise."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=items)
    means, mixing = draw.standard_normal((classes, width)), draw.standard_normal((width, width))
    return (means[labels] + draw.standard_normal((items, width))) @ mixing + 3.0, labels


def erased(vectors, found):
    return vectors - ((vectors - found.mean) @ found.right) @ found.left.T


def across(vectors, labels):
    """The covariance of vectors and one-hot labels, item by item."""
    classes = np.unique(labels)
    hot = np.array([[label == each for each in classes] for label in labels], dtype=np.float64)
    return np.cov(vectors.T, hot.T, bias=True)[: vectors.shape[1], vectors.shape[1] :]


def by_the_paper(vectors, labels):
    """Theorem 4.3 with matrix square roots and pseudoinverses."""
    within = np.cov(vectors.T, bias=True)
    whitening = np.real(linalg.pinvh(linalg.sqrtm(within)))
    product = whitening @ across(vectors, labels)
    onto = product @ linalg.pinv(product, rtol=1e-9)
    return linalg.pinvh(whitening) @ onto @ whitening


def test_leace_is_the_closed_form_of_the_paper():
    vectors, labels = drawn()

    found = leace(vectors, labels, 4)

    np.testing.assert_allclose(found.left @ found.right.T, by_the_paper(vectors, labels), atol=1e-8)
    np.testing.assert_allclose(found.mean, vectors.mean(axis=0))
    assert found.left.shape == found.right.shape == (12, 3)


def test_what_is_left_does_not_covary_with_the_labels():
    vectors, labels = drawn()
    assert np.abs(across(vectors, labels)).max() > 0.1

    left = erased(vectors, leace(vectors, labels, 4))

    assert np.abs(across(left, labels)).max() < 1e-12
    np.testing.assert_allclose(left.mean(axis=0), vectors.mean(axis=0))


def test_dimensions_that_do_not_vary_or_are_sums_of_others_are_no_trouble():
    vectors, labels = drawn(width=6)
    vectors = np.hstack([vectors, np.full((len(vectors), 1), 7.0), vectors[:, :1] + vectors[:, 1:2]])

    for given in (vectors, vectors.astype(np.float32)):
        found = leace(given, labels, 4)
        left = erased(given.astype(np.float64), found)
        assert np.abs(across(left, labels)).max() < 1e-8
        assert found.left.shape[1] == 3
        np.testing.assert_allclose(left[:, 6], 7.0)
        np.testing.assert_allclose(found.right.T @ found.left, np.eye(3), atol=1e-7)


def test_no_linear_classifier_of_what_is_left_beats_the_majority():
    vectors, labels = drawn()
    left = erased(vectors, leace(vectors, labels, 4))
    shares = np.bincount(labels) / len(labels)

    probe = LogisticRegression(C=1e8, tol=1e-10, max_iter=5000).fit(left, labels)

    assert LogisticRegression(max_iter=5000).fit(vectors, labels).score(vectors, labels) > 0.8
    assert set(probe.predict(left)) == {shares.argmax()}
    loss = -np.mean(probe.predict_log_proba(left)[np.arange(len(labels)), labels])
    assert loss == pytest.approx(-np.sum(shares * np.log(shares)), abs=1e-8)


def test_no_other_projection_that_erases_as_much_changes_vectors_less():
    vectors, labels = drawn()
    found = leace(vectors, labels, 4)
    least = np.mean((erased(vectors, found) - vectors) ** 2)
    columns = linalg.orth(across(vectors, labels))
    draw = np.random.default_rng(1)

    changes = []
    for size in (0.0, 0.01, 0.1, 1.0):  # of other directions to project along, orthogonal to none of the columns
        right = found.right + size * draw.standard_normal(found.right.shape)
        other = columns @ np.linalg.inv(right.T @ columns) @ right.T
        left = vectors - (vectors - found.mean) @ other.T
        assert np.abs(across(left, labels)).max() < 1e-8
        changes.append(np.mean((left - vectors) ** 2))
    orthogonal = (vectors - found.mean) @ columns @ columns.T

    assert changes[0] == pytest.approx(least)
    assert all(least < other for other in [*changes[1:], np.mean(orthogonal**2)])


def test_vectors_that_do_not_vary_have_nothing_to_erase():
    assert leace(np.ones((30, 5)), np.arange(30) % 2, 2).left.shape == (5, 0)


def test_inlp_leaves_nothing_to_a_linear_classifier_on_other_items():
    vectors, labels = drawn(items=1500, width=30)
    parts = [Labelled(vectors[at], labels[at], np.arange(500)) for at in (slice(0, 500), slice(500, 1000))]

    found = inlp(*parts, 20, "it")

    basis = found.directions.left
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-10)
    assert found.directions.right is basis
    assert found.converged
    assert 1 <= found.iterations <= 20
    left = erased(vectors, found.directions)
    probe = LogisticRegression(max_iter=5000).fit(left[:500], labels[:500])
    share = np.bincount(labels[1000:]).max() / 500
    assert LogisticRegression(max_iter=5000).fit(vectors[:500], labels[:500]).score(vectors[1000:], labels[1000:]) > 0.7
    assert probe.score(left[1000:], labels[1000:]) < share + 0.08


def test_inlp_stopped_early_says_so():
    vectors, labels = drawn(items=1000)
    parts = [Labelled(vectors[at], labels[at], np.arange(500)) for at in (slice(0, 500), slice(500, 1000))]

    found = inlp(*parts, 1, "it")

    assert (found.iterations, found.converged) == (1, False)
    assert found.directions.left.shape[1] == 3  # weights of four classes add up to zero


def test_random_directions_are_those_of_their_seed():
    mean = np.arange(6.0)
    one, same, other = (random_directions(mean, 2, seed) for seed in ((1, 0), (1, 0), (2, 0)))

    assert np.array_equal(one.left, same.left)
    assert not np.allclose(one.left, other.left)
    np.testing.assert_allclose(one.left.T @ one.right, np.eye(2), atol=1e-12)


@pytest.fixture(scope="module")
def planted():
    return planted_layer_model(2), planted_layer_task(80, 1), planted_layer_task(300, 2)


def test_a_planted_property_is_there_from_its_layer_on_and_erased_at_chance(planted):
    model, task, train = planted

    for layer in range(LAYERS + 1):
        found = erase(model, task, layer, train=train).only
        assert found.was_there == (layer >= 2)
        assert found.accuracy_before == pytest.approx(1.0 if layer >= 2 else found.majority, abs=0.08)
        assert found.accuracy_after == found.majority
        assert not found.is_there
        assert found.rank == 2


def test_erased_at_one_layer_a_probe_of_the_layers_above_is_at_chance_too(planted):
    model, task, train = planted
    low = erase(model, task, 2, train=train)

    with model.erasing(low):
        high = erase(model, task, 4, train=train).only

    assert high.accuracy_before < high.majority + 0.1


def test_several_layers_are_fitted_with_those_before_in_force(planted):
    model, task, train = planted
    low = erase(model, task, 2, train=train)
    with model.erasing(low):
        high = erase(model, task, 3, train=train)

    both = erase(model, task, [3, 2], train=train)

    assert [each.layer for each in both.layers] == [2, 3]
    np.testing.assert_allclose(both.to_numpy(2), low.to_numpy())
    np.testing.assert_allclose(both.to_numpy(3), high.to_numpy(), atol=1e-6)


def test_an_erasure_comes_back_from_its_file(planted, tmp_path):
    model, task, train = planted
    found = erase(model, task, [0, 2], train=train)

    again = Erasure.load(found.save(tmp_path / "colour.safetensors"))

    assert again.table() == found.table()
    assert again.found_on == found.found_on
    with planted[0].erasing(again):
        assert len(planted[0].erased()) == 2
    for one, other in zip(again.projections, found.projections, strict=True):
        assert (one.layer, one.stack) == (other.layer, other.stack)
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("mean", "left", "right"))
    (tmp_path / "other.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(MalformedData, match="no saved erasure"):
        Erasure.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError):
        Erasure.load(tmp_path / "gone.safetensors")


def test_random_directions_of_an_erasure_leave_the_property(planted):
    model, task, train = planted
    found = erase(model, task, 2, train=train)

    with model.erasing(*found.at_random(seed=3)):
        after = erase(model, task, 3, train=train).only

    assert [each.rank for each in found.at_random(seed=3)] == [2]
    assert after.accuracy_before > 0.95


def test_wrong_arguments_are_told(planted):
    model, task, train = planted

    for options, told in (({"method": "amnesia"}, "leace"), ({"most": 0}, "most"), ({"confidence": 1.0}, "confidence")):
        with pytest.raises(InvalidArgument, match=told):
            erase(model, task, 1, train=train, **options)
    with pytest.raises(InvalidArgument, match="layers"):
        erase(model, task, 5, train=train)
    with pytest.raises(InvalidArgument, match="at"):
        erase(model, task, [1, 2], train=train).to_numpy()


@pytest.mark.filterwarnings("ignore:probes learn from only")
def test_pairs_of_spans_are_refused(planted):
    words = [("red0", 0, "root"), ("blue1", 1, "obj"), ("green2", 1, "obl")]
    tokens = [
        {"id": at, "form": form, "head": head, "deprel": relation, "upos": "X"}
        for at, (form, head, relation) in enumerate(words, start=1)
    ]
    others = [{**token, "form": token["form"] + "1"} for token in tokens]

    with pytest.raises(InvalidArgument, match="pairs"):
        erase(planted[0], load_task(read_conllu([tokens, others, tokens[:2]]), label="arc"), 1)


def test_an_erasure_of_other_weights_is_refused_and_one_of_equal_weights_is_not(planted):
    model, task, train = planted
    found = erase(model, task, 2, train=train)
    anew = load_model(copy.deepcopy(model.model), tokenizer=model.tokenizer)
    anew.name = "again"
    other = copy.deepcopy(anew)
    with torch.no_grad():
        other.model.get_parameter("encoder.layer.0.output.dense.bias")[0] += 1.0

    with anew.erasing(found):
        assert anew.erased() == ("2 directions of layer 2",)
    with pytest.raises(CannotErase, match=f"found on {model.name} .*, and again has others"):
        other.erasing(found).__enter__()
    with other.erasing(*found.projections):
        assert other.erased() == ("2 directions of layer 2",)


def test_an_erasure_found_under_something_else_warns(planted):
    model, task, train = planted
    found = erase(model, task, 2, train=train)
    with model.masked([(3, 0)]):
        masked = erase(model, task, 2, train=train)
        with model.erasing(masked):
            pass
    with model.erasing(found):
        above = erase(model, task, 3, train=train)
    handle = model.model.encoder.layer[3].register_forward_hook(lambda module, args, result: None)

    with pytest.warns(BertologyWarning, match="with nothing in force, and now there is a hook on encoder.layer.3"):
        model.erasing(found).__enter__()
    handle.remove()
    model.close_contexts()
    with pytest.warns(BertologyWarning, match="with 1 heads masked: L3H0 in force, and now there is nothing"):
        model.erasing(masked).__enter__()
    model.close_contexts()
    with pytest.warns(BertologyWarning, match="with 2 directions of layer 2 erased .* and now there is nothing"):
        model.erasing(above).__enter__()
    model.close_contexts()
    with model.erasing(found, above):
        pass
    with model.erasing(found), model.erasing(above):
        pass


def test_inlp_that_did_not_come_to_its_end_warns_and_says_so(monkeypatch):
    model, task, train = planted_layer_model(2), planted_layer_task(80, 1), planted_layer_task(300, 2)
    whole = erasure.inlp
    monkeypatch.setattr(erasure, "inlp", lambda *args: replace(whole(*args), converged=False, iterations=7))

    with pytest.warns(BertologyWarning, match="layer 2: not converged after 7 classifiers.* Take .* most=") as told:
        found = erase(model, task, 2, train=train, method="inlp", most=7)

    assert "not converged after 7 classifiers" in repr(found)
    assert told[0].filename == __file__


def test_a_probe_that_still_finds_the_property_is_told(planted, monkeypatch):
    model, task, train = planted
    whole = erasure.leace

    def nothing(vectors, labels, classes):
        found = whole(vectors, labels, classes)
        return type(found)(found.mean, found.left[:, :0], found.right[:, :0])

    monkeypatch.setattr(erasure, "leace", nothing)

    with pytest.warns(BertologyWarning, match=r"layer 2: a probe still gets 1\.0000, majority 0\.\d+. Take more"):
        found = erase(model, task, 2, train=train)

    assert "still gets 1.0000" in repr(found)
