"""Maps and states are those of transformers' own outputs, one unpadded text at a time; a limit bounds what is kept."""

from __future__ import annotations

from functools import wraps

import numpy as np
import pytest
import torch
import transformers

from pytest_bertology import AttentionMaps, Batching, HiddenStates, Neuron, load_model
from pytest_bertology.errors import CannotMeasure, InvalidArgument, TooMuchMemory, UnknownHead, UnknownLayer
from pytest_bertology.models.capturing import HOOKED
from tests.attending import eager_attentions, letters, spelled
from tests.families import family
from tests.measures.test_attention import encoder_decoder

TEXTS = spelled(7)


@pytest.fixture
def passes(monkeypatch):
    """One entry for each pass of a BERT."""
    found = []
    forward = transformers.BertForMaskedLM.forward

    @wraps(forward)
    def counting(*args, **kwargs):
        found.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(transformers.BertForMaskedLM, "forward", counting)
    return found


@pytest.fixture
def model():
    return load_model(family("bert", "masked-lm", dtype=torch.float64), tokenizer=letters())


def test_maps_are_those_of_eager_attention(model):
    expected = eager_attentions(model.model, letters(), TEXTS)

    maps = AttentionMaps(model, TEXTS, batching=Batching(tokens=40))

    assert len(maps) == 2
    for layer in range(2):
        for text in range(len(TEXTS)):
            assert np.abs(maps[layer][text] - expected[text][layer]).max() < 1e-9
    assert np.array_equal(maps.head((1, 3))[2], maps[1][2][3])
    assert maps.tokens[0] == ("[CLS]", "a", "b", ",", "a", ".", "[SEP]")


def test_states_are_those_of_transformers(model):
    states = HiddenStates(model, TEXTS, batching=Batching(tokens=40))

    assert len(states) == 3
    for text, string in enumerate(TEXTS):
        with torch.no_grad():
            expected = model.model(letters()(string, return_tensors="pt").input_ids, output_hidden_states=True)
        for layer in range(3):
            assert np.abs(states[layer][text] - expected.hidden_states[layer][0].numpy()).max() < 1e-9


@pytest.mark.parametrize("kind", [AttentionMaps, HiddenStates])
def test_layers_that_fit_are_computed_together(model, kind, passes):
    found = kind(model, TEXTS, batching=Batching(tokens=4096))
    len(found)
    passes.clear()

    assert found[0] is found[0]
    once = len(passes)  # states are tried for padding beforehand
    assert len(found[1]) == len(TEXTS)

    assert len(passes) == once


@pytest.mark.parametrize("kind", [AttentionMaps, HiddenStates])
def test_layers_that_do_not_fit_together_are_computed_one_by_one(model, kind, passes):
    whole = kind(model, TEXTS)
    one = max(sum(text.nbytes for text in layer) for layer in whole)
    small = kind(model, TEXTS, limit=one, batching=Batching(tokens=4096))
    assert len(small) == len(whole)
    passes.clear()

    for number, expected in enumerate(whole):
        before = len(passes)
        assert np.allclose(small[number][0], expected[0], atol=1e-12)
        assert len(small._kept) == 1
        assert len(passes) > before


@pytest.mark.parametrize("kind", [AttentionMaps, HiddenStates])
def test_a_layer_beyond_the_limit_is_refused_before_it_is_computed(model, kind, passes):
    found = kind(model, TEXTS, limit=1000)
    len(found)
    passes.clear()

    with pytest.raises(TooMuchMemory, match="limit="):
        found[0]

    assert not passes


@pytest.mark.parametrize("kind", [AttentionMaps, HiddenStates])
def test_masks_act_on_what_is_asked_for_under_them(model, kind):
    found = kind(model, TEXTS)
    plain = found[-1][0]

    with model.masked([(0, 1)]):
        masked = found[-1][0]

    assert np.abs(plain - masked).max() > 1e-4
    assert np.array_equal(found[-1][0], plain)


CHANGES = {
    "top-k": lambda model: model.with_top_k_attention(1),
    "pattern": lambda model: model.with_attention_pattern([(0, 0), (1, 1)], "previous"),
    "skipping": lambda model: model.skipping([0]),
    "units": lambda model: model.units_masked([Neuron(0, n) for n in range(32)]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [AttentionMaps, HiddenStates])
def test_what_is_computed_under_a_change_is_not_kept_beyond_it(model, kind, change):
    if (kind, change) == (HiddenStates, "skipping") and not HOOKED:
        pytest.skip("this transformers notes states before hooks act, which is refused")
    plain = kind(model, TEXTS)[-1][0]
    found = kind(model, TEXTS)

    with CHANGES[change](model):
        changed = found[-1][0]
    assert np.abs(changed - plain).max() > 1e-4

    assert np.array_equal(found[-1][0], plain)
    with CHANGES[change](model):
        assert np.array_equal(found[-1][0], changed)


def test_maps_cannot_be_written_to(model):
    with pytest.raises(ValueError, match="read-only"):
        AttentionMaps(model, TEXTS)[0][0][:] = 0.0


@pytest.mark.parametrize("layer", [2, -3, "first", (0, "encoder"), True])
def test_unknown_layers_are_refused(model, layer):
    with pytest.raises(UnknownLayer, match="2 layers"):
        AttentionMaps(model, TEXTS)[layer]


@pytest.mark.parametrize("layer", [3, -4, "first"])
def test_unknown_states_are_refused(model, layer):
    with pytest.raises(UnknownLayer, match="2 layers"):
        HiddenStates(model, TEXTS)[layer]


def test_unknown_heads_are_refused(model):
    with pytest.raises(UnknownHead):
        AttentionMaps(model, TEXTS).head((0, 4))


def test_stacks_are_told_apart():
    model = encoder_decoder("bart")
    under_test = load_model(model, tokenizer=letters())

    maps = AttentionMaps(under_test, TEXTS)
    states = HiddenStates(under_test, TEXTS, stack="decoder")

    expected = eager_attentions(model, letters(), TEXTS, "cross_attentions")
    assert np.abs(maps[0, "cross"][3] - expected[3][0]).max() < 1e-9
    assert np.abs(maps.head((0, 2, "cross"))[3] - expected[3][0][2]).max() < 1e-9
    assert len(states) == 2
    assert len(HiddenStates(under_test, TEXTS)) == 3
    with pytest.raises(InvalidArgument, match="stack"):
        len(HiddenStates(load_model(family("bert"), tokenizer=letters()), TEXTS, stack="decoder"))


def test_images_have_no_states_of_texts():
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=8, image_size=8, patch_size=4
    )
    model = load_model(transformers.ViTForImageClassification(config), tokenizer=letters())

    with pytest.raises(CannotMeasure, match="pixel_values"):
        HiddenStates(model, TEXTS)[0]
