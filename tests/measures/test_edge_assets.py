"""Edge probes of a real sentence encoder on UD English-EWT.

Oracle: the published order (Tenney et al. 2019, figure 1): parts of speech below dependency relations.
"""

from __future__ import annotations

from functools import cache

import pytest

from pytest_bertology import assert_layer_order, load_task, read_conllu
from tests.planted_roles import sentence_encoder

pytestmark = pytest.mark.slow

encoder = cache(sentence_encoder)


@pytest.mark.assets
def test_parts_of_speech_lie_below_dependency_relations(assets):
    folder = assets / "data" / "ud_ewt"
    train = read_conllu(folder / "en_ewt-ud-train-subset.conllu")[:240]
    dev = read_conllu(folder / "en_ewt-ud-dev.conllu")[:200]
    columns = {"pos": "upos", "dep": "arc"}

    found = assert_layer_order(
        encoder(),
        ["pos", "dep"],
        by="expected_layer",
        tasks={name: load_task(dev, label=label) for name, label in columns.items()},
        train={name: load_task(train, label=label) for name, label in columns.items()},
        seeds=(0,),
        steps=200,
    )

    assert 0.5 < found["pos"].expected_layer < found["dep"].expected_layer < 4.0
    assert found["pos"].score > 0.88
    assert found["dep"].score > 0.72
    assert found["pos"].centre_of_gravity < found["dep"].centre_of_gravity
