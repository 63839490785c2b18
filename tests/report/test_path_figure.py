"""Figures of paths of compression: what is drawn is what was measured."""

from __future__ import annotations

import pytest

from pytest_bertology import save_figure
from pytest_bertology.report.path_figure import compression_figure
from tests.measures.test_probe_retention import a_path

pytest.importorskip("matplotlib")


def test_scores_of_probes_and_of_the_model_are_drawn_point_by_point():
    found = a_path([0.9, 0.8, 0.5], [3.0, 4.0, 9.0], "loss")

    above, below = compression_figure(found).axes

    assert above.lines[0].get_ydata().tolist() == [0.9, 0.8, 0.5]
    assert below.lines[0].get_ydata().tolist() == [3.0, 4.0, 9.0]
    assert above.get_ylabel() == "accuracy of the probe"
    assert below.get_ylabel() == "loss of the model"


def test_a_path_is_saved_as_a_picture(tmp_path):
    save_figure(a_path([0.9, 0.9, 0.9], [3.0, 4.0, 9.0]), tmp_path / "path.png")

    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")
