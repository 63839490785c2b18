"""Sweeps of any architecture give what its whole forward passes give, and which parts of it are left out is known.

By default a sample of types runs; `tox -e coverage` (BERTOLOGY_COVERAGE=all) runs all that read texts. Oracle: the
plain path, one mask after the other.
"""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch

from pytest_bertology import Batching, HeadMask, load_model
from pytest_bertology.engine.encoding import Encoded, Example
from pytest_bertology.engine.results import run
from pytest_bertology.engine.resuming import Way, way_of
from pytest_bertology.engine.sweeps import sweep
from pytest_bertology.engine.tables import raw
from pytest_bertology.errors import BertologyError
from pytest_bertology.models import ModelUnderTest
from tests.architectures.recipe import CannotBuild, Entry, build, entries
from tests.architectures.test_coverage import ALL, SAME, VERSION

pytestmark = pytest.mark.skipif(
    not (SAME or ALL), reason=f"reviewed for transformers {VERSION}; tox -e coverage shows what differs"
)
KINDS = ("sequence-classification", "token-classification", "causal-lm", "masked-lm")
WHOLE = {"albert", "funnel", "gemma3n_text", "hrm_text", "perceiver", "prophetnet", "squeezebert"}
"""Types whose every mask takes a whole pass: layers that run several times, or that are not in lists."""
NEEDS_MORE = {"blt", "bros", "canine", "gemma3n", "layoutlmv2", "musicgen", "musicgen_melody", "perceiver"}
"""Types that need more than token ids, or give logits that are not one for each token."""
SAMPLE = [
    Entry(model_type, kind)
    for kind, types in {
        "sequence-classification": "albert bart deberta-v2 gpt2 longformer lilt t5 xlm",
        "token-classification": "convbert roformer squeezebert",
        "masked-lm": "modernbert mpnet xlm",
        "causal-lm": "bamba deepseek_v32 gemma3_text gpt_oss hy_v4 jamba olmo2 qwen3_next",
    }.items()
    for model_type in types.split()
]
ENTRIES = [e for e in entries() if e.kind in KINDS and (e in SAMPLE if not ALL else e.model_type not in NEEDS_MORE)]


def encoded_for(entry: Entry, model: ModelUnderTest) -> Encoded:
    """Four texts of ids at random, the end-of-text token at their ends."""
    config, draw = model.model.config.get_text_config(), random.Random(0)
    end = getattr(model.model.config, "eos_token_id", None)
    end = end if isinstance(end, int) else None
    examples = []
    for length in (9, 6, 12, 6):
        ids = [draw.randrange(4, min(config.vocab_size, 90)) for _ in range(length)]
        ids = [token if token != end else 3 for token in ids]
        ids[-1] = ids[-1] if end is None else end
        labels = {
            "causal-lm": (*ids[1:], -100),
            "masked-lm": tuple(token if at % 3 == 1 else -100 for at, token in enumerate(ids)),
            "token-classification": tuple(draw.randrange(2) for _ in ids),
        }.get(entry.kind, draw.randrange(2))
        examples.append(Example(tuple(ids), None, labels))
    return Encoded(entry.kind, tuple(examples), 2, ())


@pytest.mark.parametrize("entry", ENTRIES, ids="-".join)
def test_a_sweep_is_the_model_run_whole_under_every_mask(entry):
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            built, sample = build(entry, layers=3)
            model = _loaded(built, sample)
        except (CannotBuild, BertologyError) as error:
            pytest.skip(str(error).splitlines()[0])
    encoded = encoded_for(entry, model)
    masks = [HeadMask.keep_all(model.heads)]
    masks += [HeadMask.without(model.heads, [head]) for head in list(model.heads)[::3]]
    batching = Batching(tokens=24)

    found = sweep(model, encoded, masks, batching, "ids")

    for row, mask in enumerate(masks):
        plain = run(model, encoded, mask, batching, "ids")
        assert np.allclose(raw(found, row).losses, plain.losses, rtol=1e-5, atol=1e-5)
    assert (way(model, encoded).layers is None) == (entry.model_type in WHOLE)


def _loaded(built, sample) -> ModelUnderTest:
    try:
        return load_model(built)
    except BertologyError:
        return load_model(built, sample=sample)


def way(model: ModelUnderTest, encoded: Encoded) -> Way:
    with torch.inference_mode(), model.frozen(), model.exactly(None):
        return way_of(model, encoded)


def test_attention_that_chooses_tokens_for_other_layers_is_run_whole():
    """In Hy v4 the tokens that one layer chooses are attended to by the layers after it."""
    entry = Entry("hy_v4", "causal-lm")
    built, _ = build(entry, layers=3)
    model = load_model(built)

    assert not all(way(model, encoded_for(entry, model)).contexts)
