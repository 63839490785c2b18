"""The figure of heads in the plane, read back from matplotlib's own objects."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_bertology import Head, save_figure
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.divergence import HeadDivergence
from pytest_bertology.report.embedding_figure import embedding_figure
from pytest_bertology.report.figures import figure_of


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
    assert sorted(text.get_text() for text in axis.texts) == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
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
    clusters, embedding = found.clusters(4), found.embedding()

    figure = embedding_figure(embedding, clusters, "a title with $ in it")

    axis = figure.axes[0]
    assert len(axis.patches) == 4
    for patch, heads in zip(axis.patches, clusters.groups, strict=True):
        path = patch.get_path()
        inside = [head for head in found.heads if path.contains_point(embedding.point(head))]
        assert tuple(inside) == heads
    assert {text.get_text() for text in axis.texts} >= {"0", "1", "2", "3"}
    assert "4 groups by average linkage, silhouette" in figure.get_supxlabel()
    assert figure.get_suptitle() == "a title with $ in it"


def test_groups_of_other_heads_are_refused():
    with pytest.raises(InvalidArgument, match="groups of the 6 heads"):
        embedding_figure(divergence().embedding(), divergence(4).clusters(2))


def test_names_do_not_overlap_and_crowds_go_without():
    heads = tuple(Head(index // 12, index % 12) for index in range(72))
    at = np.random.default_rng(0).normal(size=(72, 2)) ** 3 / 20
    apart = np.linalg.norm(at[:, None] - at[None], axis=-1)

    figure = embedding_figure(HeadDivergence(heads, "planted", "none", 1, 1, apart).embedding("classical"))

    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert 20 < len(boxes) < 72
    assert f"; {72 - len(boxes)} in crowds are not named" in figure.get_supxlabel()
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])


def test_points_and_groups_are_saved_as_a_pair(tmp_path):
    found = divergence()

    figure = figure_of((found.embedding(), found.clusters(3)), "both")

    assert len(figure.axes[0].patches) == 3
    assert figure.get_suptitle() == "both"
    with pytest.raises(InvalidArgument, match=r"the pair \(divergence.embedding\(\), clusters\)"):
        save_figure(found.clusters(3), tmp_path / "groups.png")


@pytest.mark.parametrize(("layers", "names"), [(2, "L1H2"), (30, "layer 1")])
def test_a_divergence_is_a_heat_map_of_heads_by_heads(layers, names):
    found = divergence(3 * layers)

    figure = figure_of(found)

    axis, bar = figure.axes
    assert np.array_equal(np.asarray(axis.images[0].get_array()), found.mean)
    assert names in [label.get_text() for label in axis.get_yticklabels()]
    assert [line.get_ydata()[0] for line in axis.lines[::2]] == [3 * layer - 0.5 for layer in range(1, layers)]
    assert "divergence" in bar.get_ylabel()
    assert figure.get_suptitle() == "how differently heads of planted attend\nnone"


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_it_is_written_to_a_file(ending, tmp_path):
    found = divergence()
    zero = HeadDivergence(found.heads, "all alike", "none", 1, 1, np.zeros((6, 6)))

    for each in (found, zero):
        path = save_figure(embedding_figure(each.embedding(), each.clusters(2)), tmp_path / f"heads.{ending}")
        assert path.stat().st_size > 1000
