"""What figures of attention show, read back from matplotlib's own objects."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from PIL import Image

from pytest_bertology import (
    AttentionMaps,
    attention_statistics,
    head_divergence,
    head_relations,
    load_model,
    save_figure,
)
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import HeadMap
from pytest_bertology.measures.attention import STATISTICS, AttentionStatistics
from pytest_bertology.report.attention_figures import head_view, statistics_maps
from pytest_bertology.report.figures import figure_of
from tests.attending import letters, spelled
from tests.measures.test_attention import encoder_decoder
from tests.planted_attention import PREVIOUS, previous_token_model
from tests.planted_relations import tracked_sentences, tracking_model

TEXTS = spelled(4)


@cache
def maps():
    return AttentionMaps(previous_token_model(), TEXTS)


def test_a_matrix_shows_the_weights_and_names_the_tokens():
    view = maps().view(PREVIOUS, text=0)

    figure = head_view(view)

    axis = figure.axes[0]
    assert np.array_equal(np.asarray(axis.images[0].get_array()), view.weights)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["[CLS]", "a", "b", ",", "a", ".", "[SEP]"]
    assert figure._suptitle.get_text() == f"{PREVIOUS} of {view.model}"


def test_lines_join_each_token_to_what_it_attends_to():
    view = maps().view(PREVIOUS, text=0, kind="lines")

    figure = head_view(view)

    (lines,) = figure.axes[0].collections
    strongest = {
        (segment[0][1], segment[1][1])
        for segment, colour in zip(lines.get_segments(), lines.get_colors(), strict=True)
        if colour[3] > 0.99
    }
    assert {(i, i - 1) for i in range(1, 7)} <= strongest
    assert len(strongest) == 6


def test_statistics_have_a_map_each():
    found = attention_statistics(previous_token_model(), TEXTS)

    figure = statistics_maps(found)

    shown = {axis.get_title(): axis for axis in figure.axes if axis.images}
    assert set(shown) >= {"entropy", "cls entropy", "to previous", "to same token"}
    assert len(shown) == len(found.available)
    drawn = np.asarray(shown["to previous"].images[0].get_array())
    assert np.array_equal(drawn, found.to_previous.to_numpy())


def test_each_share_has_colours_up_to_its_greatest():
    found = attention_statistics(previous_token_model(), TEXTS)

    shown = {axis.get_title(): axis.images[0].get_clim() for axis in statistics_maps(found).axes if axis.images}

    assert shown["to punctuation"] == (0.0, found.to_punctuation.values.max())
    assert shown["to previous"] == (0.0, found.to_previous.values.max())
    assert shown["confidence"] == (0.0, 1.0)


@pytest.mark.parametrize("counts", [[12] * 6, [24] * 12, {"encoder": [16] * 12, "decoder": [16] * 12}])
def test_maps_leave_no_blank_bands(tmp_path, counts):
    heads = HeadMap(counts)
    values = np.linspace(0.0, 1.0, len(heads))
    found = AttentionStatistics(
        heads, "m", "t", 1, dict.fromkeys(STATISTICS, 1), 1.0, dict.fromkeys(STATISTICS, values)
    )

    with Image.open(save_figure(found, tmp_path / "maps.png", title="t")) as image:
        inked = (np.asarray(image.convert("L")) < 250).any(axis=1)

    blank = max(len(rows) for rows in "".join("x" if row else " " for row in inked).split("x"))
    assert blank < 40  # of 150 to the inch


def test_turned_heads_are_explained():
    figure = figure_of(head_relations(tracking_model(), tracked_sentences(60), min_cases=2))
    assert any(label.get_text().endswith("ᵀ") for label in figure.axes[0].get_yticklabels())
    assert "ᵀ: that head attends the other way" in figure.get_supxlabel()


def test_stacks_have_maps_of_their_own():
    found = attention_statistics(load_model(encoder_decoder("bart"), tokenizer=letters()), TEXTS)

    titles = [axis.get_title() for axis in figure_of(found).axes if axis.images]

    assert len(titles) == 3 * len(found.available)
    assert {"encoder: entropy", "decoder: entropy", "cross: entropy"} <= set(titles)


@pytest.mark.parametrize("kind", ["matrix", "lines"])
def test_tokens_that_cannot_be_shown_are_drawn_all_the_same(tmp_path, kind):
    view = maps().view(PREVIOUS, 0, kind)
    odd = type(view)(
        view.head, "a $model_x$", ("$x^2$", "", "\x1b[31m", "字" * 40, "Ġthe", "\n", "[SEP]"), view.weights, kind
    )

    path = save_figure(odd, tmp_path / "odd.png")

    with Image.open(path) as image:
        assert min(image.size) > 100


@pytest.mark.parametrize(("options", "named"), [({"kind": "circle"}, "kind"), ({"text": 4}, "text")])
def test_views_that_there_are_not_are_refused(options, named):
    with pytest.raises(InvalidArgument, match=named):
        maps().view(PREVIOUS, **options)


def test_relations_and_heads_in_the_plane_are_saved_too(tmp_path):

    for index, made in enumerate(
        [
            head_relations(tracking_model(), tracked_sentences(60), min_cases=2),
            head_divergence(previous_token_model(), TEXTS).embedding(),
        ]
    ):
        with Image.open(save_figure(made, tmp_path / f"{index}.png")) as image:
            assert min(image.size) > 100
