"""Every model type of transformers is gated, refused or not to be built, exactly as the reviewed file says.

By default a sample of types runs; `tox -e coverage` (BERTOLOGY_COVERAGE=all) runs them all. Oracle: see `sweep.py`.
"""

from __future__ import annotations

import os

import pytest
import transformers

from pytest_bertology.errors import BertologyError
from pytest_bertology.models import gating, load_model
from tests.architectures.recipe import Entry, build, entries
from tests.architectures.sweep import PAGE, WITHOUT_SOFTMAX, Wrong, examine, outputs, page, prove, read, totals

VERSION, REVIEWED = read()
SAME = transformers.__version__ == VERSION
ALL = os.environ.get("BERTOLOGY_COVERAGE") == "all"
pytestmark = pytest.mark.skipif(
    not (SAME or ALL), reason=f"reviewed for transformers {VERSION}; tox -e coverage shows what differs"
)
SAMPLE = [
    Entry(model_type, kind)
    for kind, types in {
        "sequence-classification": "albert bart bert bloom deberta-v2 esm falcon funnel longformer mpt qwen2_moe",
        "token-classification": "big_bird bros convbert diffllama fnet gpt_neox lilt roformer squeezebert xlnet",
        "masked-lm": "ibert layoutlm modernbert mpnet nystromformer perceiver rembert tapas xlm",
        "causal-lm": "afmoe bitnet codegen deepseek_v3 doge gemma3_text gptj gpt_oss jamba jetmoe mamba olmo2 phi3 "
        "prophetnet qwen3_next",
        "seq2seq-lm": "fsmt led longt5 m2m_100 pegasus_x t5 t5gemma",
        "image-classification": "beit cvt data2vec-vision levit mobilevit pvt resnet segformer swin vit",
        "audio-classification": "audio-spectrogram-transformer sew-d wav2vec2 wavlm whisper",
    }.items()
    for model_type in types.split()
]
ENTRIES = entries() if ALL else [entry for entry in entries() if entry in SAMPLE]


@pytest.mark.parametrize("entry", ENTRIES, ids="-".join)
def test_a_model_type_is_what_the_reviewed_file_says(entry):
    row = examine(entry)

    assert row.outcome not in ("WRONG", "ERROR"), row.reason
    assert row == REVIEWED.get(entry)


def test_the_reviewed_file_knows_every_type():
    assert set(REVIEWED) == set(entries())


def test_enough_types_are_built_and_gated_and_none_is_wrong():
    count = totals(REVIEWED.values())

    assert {row.outcome for row in REVIEWED.values()} == {"gated", "refused", "cannot be built here"}
    assert count.types >= 306
    assert count.built >= 286
    assert count.gated / count.softmax >= 0.95


def test_every_refusal_has_a_reason():
    assert all(row.reason for row in REVIEWED.values() if row.outcome != "gated")


@pytest.mark.parametrize("model_type", ["mamba", "fnet", "rwkv", "resnet", "convnext", "poolformer"])
def test_types_without_softmax_heads_are_known_as_such(model_type):
    assert {row.reason for entry, row in REVIEWED.items() if entry.model_type == model_type} == {WITHOUT_SOFTMAX}


def test_the_page_says_what_the_file_says():
    assert PAGE.read_text() == page()


def test_the_oracle_tells_a_wrong_mask():
    live, sample = build(Entry("bert", "masked-lm"))
    model = load_model(live, sample=sample)
    assert prove(model, sample) > 4
    model._gating._sites = tuple(reversed(model._gating._sites))

    with pytest.raises((Wrong, BertologyError)):
        prove(model, sample)


@pytest.mark.parametrize("entry", [Entry("bert", "masked-lm"), Entry("bitnet", "causal-lm")], ids="-".join)
def test_the_oracle_tells_a_mask_that_does_nothing(entry, monkeypatch):
    live, sample = build(entry)
    model = load_model(live, kind="encoder", sample=sample)
    monkeypatch.setattr(gating, "_apply", lambda frame, index, site, context: context)

    with pytest.raises(Wrong, match="moves nothing"):
        prove(model, sample)


def test_the_sample_holds_no_type_that_is_gone():
    assert set(SAMPLE) <= set(entries())


@pytest.mark.parametrize("entry", [Entry("bert", "masked-lm"), Entry("t5", "seq2seq-lm")], ids="-".join)
def test_the_recipe_builds_the_same_model_twice(entry):
    (one, inputs), (other, again) = build(entry), build(entry)

    assert [a.tolist() for a in outputs(one, inputs)] == [a.tolist() for a in outputs(other, again)]
