"""Recorded states against `output_hidden_states` of the plain model; what is recorded once, and when it is deleted."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from pytest_bertology import Batching
from pytest_bertology.engine import recording
from pytest_bertology.engine.recording import forget_recordings, record
from pytest_bertology.engine.texts import read_texts
from pytest_bertology.errors import TooMuchMemory
from tests.hooked import hooked
from tests.tiny import sentences, tiny_model

WHAT = "the states"


@pytest.fixture(autouse=True)
def _nothing_recorded():
    forget_recordings()
    yield
    forget_recordings()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def texts(model):
    return read_texts(model, sentences(12))


def units(texts, *, means):
    """Of every other text the last token but one, the first and, with `means`, the two together; of others none."""
    found = []
    for index in range(len(texts)):
        last = len(texts.ids(index)) - 2
        each = [np.array([last]), np.array([1]), *([np.array([1, last])] if means else [])]
        found.append(each if index % 2 == 0 else [])
    return found


def plain(model, texts, chosen):
    """For each layer (units, width), one text at a time."""
    rows = []
    for text, own in zip(texts.texts, chosen, strict=True):
        with torch.no_grad():
            result = model.model(**model.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        for unit in own:
            rows.append([layer[0, unit].mean(dim=0).numpy() for layer in result.hidden_states])
    return np.array(rows).transpose(1, 0, 2)


@pytest.mark.parametrize("means", [False, True])
@pytest.mark.parametrize("batching", [None, Batching(tokens=1), Batching(tokens=40, padding_side="left")])
def test_units_are_recorded_layer_by_layer(model, texts, means, batching):
    chosen = units(texts, means=means)
    expected = plain(model, texts, chosen)

    found = record(model, texts, chosen, what=WHAT, batching=batching)

    assert (found.units, found.layers) == (expected.shape[1], len(expected) - 1)
    for layer, each in enumerate(expected):
        assert found.vectors(layer) == pytest.approx(each, abs=2e-6)
        assert not found.vectors(layer).flags.writeable
    assert found.bytes == pytest.approx(expected.size * 4, abs=128 * len(expected))  # and the files' headers


def test_the_same_is_run_once_and_anything_else_anew(model, texts, monkeypatch):
    runs = []
    own = recording.stream_states
    monkeypatch.setattr(recording, "stream_states", lambda *given, **named: (runs.append(1), own(*given, **named))[1])
    chosen = units(texts, means=False)

    first = record(model, texts, chosen, what=WHAT)
    assert record(model, texts, chosen, what=WHAT) is first
    assert len(runs) == 1

    with model.masked([(0, 1)]):
        masked = record(model, texts, chosen, what=WHAT)
    assert record(model, texts, units(texts, means=True), what=WHAT) is not first
    assert record(tiny_model(seed=1), texts, chosen, what=WHAT) is not first
    assert len(runs) == 4
    assert np.array_equal(masked.vectors(0), first.vectors(0))
    assert not np.array_equal(masked.vectors(1), first.vectors(1))


@hooked
def test_nothing_is_kept_of_an_altered_model(model, texts):
    chosen = units(texts, means=False)
    before = record(model, texts, chosen, what=WHAT)
    handle = model.model.bert.encoder.layer[0].register_forward_hook(lambda module, given, result: result * 2)
    try:
        altered = record(model, texts, chosen, what=WHAT)
        assert altered is not before
        assert record(model, texts, chosen, what=WHAT) is not altered
    finally:
        handle.remove()

    assert np.array_equal(altered.vectors(0), before.vectors(0))
    assert not np.allclose(altered.vectors(2), before.vectors(2), atol=0.01)
    assert record(model, texts, chosen, what=WHAT) is before


def test_nothing_is_left_when_nobody_holds_it(model, texts, tmp_path, monkeypatch):
    """Not even of a process that is killed: while it is used, the file has no name."""
    monkeypatch.setattr(recording.tempfile, "tempdir", str(tmp_path))
    found = record(model, texts, units(texts, means=False), what=WHAT)
    file = found._file

    assert list(tmp_path.iterdir()) == []
    forget_recordings()
    assert not file.closed  # this test still holds it
    del found
    gc.collect()

    assert file.closed


def test_the_oldest_are_let_go_beyond_the_limit(model, texts, monkeypatch):
    monkeypatch.setattr(recording, "LIMIT", 3000)
    first = record(model, texts, units(texts, means=False), what=WHAT)
    assert first.bytes > 1500
    record(model, texts, units(texts, means=True), what=WHAT)

    assert record(model, texts, units(texts, means=False), what=WHAT) is not first


def test_a_full_disk_is_told_before_it_is_written_to(model, texts, monkeypatch):
    usage = recording.shutil.disk_usage("/")
    monkeypatch.setattr(recording.shutil, "disk_usage", lambda path: usage._replace(free=10))

    with pytest.raises(TooMuchMemory, match="TMPDIR"):
        record(model, texts, units(texts, means=False), what=WHAT)
