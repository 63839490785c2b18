"""The figure of heads in the plane, read back from matplotlib's own objects."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_bertology import Head, save_figure
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.divergence import HeadDivergence
from pytest_bertology.report.embedding_figure import embedding_figure


def divergence(count=6, stacks=(None,)):
    """Heads on a line, three to a layer."""
    heads = tuple(Head(index // 3, index % 3, stack) for stack in stacks for index in range(count))
    at = np.arange(len(heads)) / 20
    return HeadDivergence(heads, "planted", "none", 1, 1, np.abs(at[:, None] - at[None]))


def offsets(axis):
    return np.concatenate([np.asarray(part.get_offsets()) for part in axis.collections if part.get_array() is not None])


def test_every_head_is_a_point_with_the_colour_of_its_layer():
    embedding = divergence().embedding()

    figure = embedding_figure(embedding)

    axis, bar = figure.axes
    (points,) = axis.collections
    assert np.allclose(offsets(axis), embedding.points)
    assert points.get_array().tolist() == [0, 0, 0, 1, 1, 1]
    assert [text.get_text() for text in axis.texts] == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    assert bar.get_ylabel() == "layer"
    assert axis.get_aspect() == 1.0
    assert "stress 0.000" in figure.get_supxlabel()
    assert figure.get_suptitle() == "heads of planted"


def test_stacks_have_markers_of_their_own():
    axis = embedding_figure(divergence(3, ("encoder", "decoder")).embedding()).axes[0]

    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["encoder", "decoder"]
    first, second = (part.get_paths()[0].vertices for part in axis.collections)
    assert len(first) != len(second)


def test_groups_are_outlined_and_numbered():
    found = divergence()
    clusters = found.clusters(4)

    figure = embedding_figure(found.embedding(), clusters, "a title with $ in it")

    axis = figure.axes[0]
    assert len(axis.patches) == 4
    for patch, heads in zip(axis.patches, clusters.groups, strict=True):
        path = patch.get_path()
        inside = [head for head in found.heads if path.contains_point(found.embedding().point(head))]
        assert tuple(inside) == heads
    assert {text.get_text() for text in axis.texts} >= {"0", "1", "2", "3"}
    assert "4 groups by average linkage, silhouette" in figure.get_supxlabel()
    assert figure.get_suptitle() == "a title with $ in it"


def test_groups_of_other_heads_are_refused():
    with pytest.raises(InvalidArgument, match="groups of the 6 heads"):
        embedding_figure(divergence().embedding(), divergence(4).clusters(2))


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_it_is_written_to_a_file(ending, tmp_path):
    found = divergence()
    zero = HeadDivergence(found.heads, "all alike", "none", 1, 1, np.zeros((6, 6)))

    for each in (found, zero):
        path = save_figure(embedding_figure(each.embedding(), each.clusters(2)), tmp_path / f"heads.{ending}")
        assert path.stat().st_size > 1000
