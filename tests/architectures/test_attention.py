"""Attention weights of any architecture are those of its eager attention, and which types hide theirs is known.

By default a sample of types runs; `tox -e coverage` (BERTOLOGY_COVERAGE=all) runs all that read texts. Oracle: what
transformers returns for `output_attentions` of the same weights under eager attention, one unpadded text at a time.
"""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from scipy.special import softmax

from pytest_bertology import Batching, load_model
from pytest_bertology.engine.attending import attend
from pytest_bertology.engine.encoding import READ, Encoded, Example
from pytest_bertology.engine.texts import Texts
from pytest_bertology.errors import BertologyError, CannotMeasure
from tests.architectures.recipe import KINDS, CannotBuild, Entry, build, entries
from tests.architectures.test_coverage import ALL, SAME, VERSION

pytestmark = pytest.mark.skipif(
    not (SAME or ALL), reason=f"reviewed for transformers {VERSION}; tox -e coverage shows what differs"
)
ORDER = ["causal-lm", "masked-lm", "seq2seq-lm", "sequence-classification", "token-classification"]
assert set(ORDER) < set(KINDS)
HIDDEN = {"big_bird", "cpmant", "funnel", "led", "longformer", "longt5", "pegasus_x", "prophetnet", "t5gemma2"}
"""Types whose attention is not from each token to all tokens: in blocks and windows, to prompts, to pooled tokens."""
READS_PADDING = {"convbert", "fsmt", "hy_v4"}
SHOWS_SCORES = {"squeezebert"}
"""Types whose `output_attentions` are not weights, but what the softmax is given."""
NO_VOCABULARY = {"canine"}
SAMPLE = {
    *("albert", "bart", "bert", "bloom", "deberta-v2", "falcon", "gpt2", "gpt_oss", "granite_swa", "jamba"),
    *("longformer", "mpnet", "phi3", "squeezebert", "t5", "xlm"),
}

LEAVES_SINKS_OUT = {"granite_swa", "granitemoe_swa"}
"""Types whose `output_attentions` are weights as if there were no sink."""


def _entries() -> list[Entry]:
    """One entry of each type that reads texts."""
    found: dict[str, Entry] = {}
    for entry in sorted(entries(), key=lambda entry: ORDER.index(entry.kind) if entry.kind in ORDER else 9):
        if entry.kind in ORDER and entry.model_type not in NO_VOCABULARY and (ALL or entry.model_type in SAMPLE):
            found.setdefault(entry.model_type, entry)
    return list(found.values())


def loaded(entry: Entry):
    """The model, and how closely weights agree; experts and some others run in no double precision."""
    built, sample = build(entry)
    single = copy.deepcopy(built)
    needs = None if "pixel_values" not in sample else sample
    try:
        return load_model(built.double(), sample=needs), 1e-6
    except BertologyError:
        return load_model(single, sample=needs), 2e-4


def texts_for(model) -> Texts:
    """Four texts of ids at random, of three lengths, the end-of-text token at their ends where models look for it."""
    config, draw = model.model.config.get_text_config(), random.Random(0)
    end = getattr(model.model.config, "eos_token_id", None)
    examples = []
    for length in (9, 6, 12, 6):
        ids = [draw.randrange(10, min(config.vocab_size, 90)) for _ in range(length)]
        ids[-1] = end if isinstance(end, int) else ids[-1]
        examples.append(Example(tuple(ids), None, 0))
    return Texts("ids", ("",) * 4, Encoded(READ, tuple(examples), 0, ()), None, ((False,) * 12,) * 4)


def eager(model, texts: Texts):
    """By the name of the field, for each text the weights of each layer; of what the model returns at all."""
    config = copy.deepcopy(model.model.config)
    plain = type(model.model)._from_config(config, attn_implementation="eager").to(model.model.dtype).eval()
    plain.load_state_dict(model.model.state_dict())
    found = {}
    for index in range(len(texts)):
        inputs = {"input_ids": torch.tensor([texts.ids(index)])}
        if any(site.stack == "decoder" for site in model.sites):
            inputs["decoder_input_ids"] = inputs["input_ids"]
        with torch.no_grad():
            result = plain(**inputs, output_attentions=True)
        for name in ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions"):
            layers = [each for each in result.get(name) or () if each is not None]
            found.setdefault(name, []).append([each[0].numpy() for each in layers])
    return found


@pytest.mark.parametrize("entry", _entries(), ids="-".join)
def test_weights_are_those_of_eager_attention(entry):
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, tolerance = loaded(entry)
        except (CannotBuild, BertologyError) as error:
            pytest.skip(str(error).splitlines()[0])
    texts, batching = texts_for(model), Batching(tokens=1 if entry.model_type in READS_PADDING else 24)
    found = [[None] * len(texts) for _ in model.sites]

    def keep(attended):
        for position, weights in attended.each():
            if attended.run == 0:
                found[attended.site][position] = weights.numpy()

    try:
        attend(model, texts, keep, what="attention", batching=batching)
    except CannotMeasure:
        if entry.model_type not in HIDDEN:
            raise
        return
    assert entry.model_type not in HIDDEN
    by_eager = eager(model, texts)
    compared = 0
    for index, site in enumerate(model.sites):
        name = {None: "attentions", "cross": "cross_attentions"}.get(site.stack, f"{site.stack}_attentions")
        for position in range(len(texts)):
            weights, layers = found[index][position], by_eager[name][position]
            assert weights is not None
            same = [layer for layer in layers if layer.shape == weights.shape]
            if entry.model_type in SHOWS_SCORES:
                same = [softmax(layer, axis=-1) for layer in same]
            if entry.model_type in LEAVES_SINKS_OUT:
                weights = weights / weights.sum(axis=-1, keepdims=True)
            if same:
                assert min(np.abs(layer - weights).max() for layer in same) < tolerance
                compared += 1
    assert compared, "eager attention returned nothing to compare with"
