"""What figures show, read back from matplotlib's own objects: numbers, labels, ticks and marks; and the files."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from PIL import Image

from pytest_bertology import (
    Head,
    HeadMap,
    HeadScores,
    ablate_all_but_one,
    ablate_heads,
    constant_curve,
    pruning_curve,
    save_figure,
)
from pytest_bertology.errors import InvalidArgument, MissingExtra
from pytest_bertology.measures.attention_maps import AttentionMaps
from pytest_bertology.measures.cat import CatReport
from pytest_bertology.measures.distances import LayerDistances
from pytest_bertology.measures.head_clusters import HeadClusters
from pytest_bertology.measures.probe_report import AttentionProbe
from pytest_bertology.measures.role_report import RoleReport
from pytest_bertology.report.figures import ablation_map, all_but_one_map, curve, figure_of, heat_map
from tests.planted import planted_model, planted_task

WORKING = Head(1, 2)
TASK = planted_task()


@cache
def ablated(**options):
    return ablate_heads(planted_model(WORKING), TASK, **options)


@cache
def measured_curve():
    return pruning_curve(planted_model(WORKING), TASK, fractions=(0.0, 0.25, 0.5, 1.0))


def scores(counts, values=None, method="gradient"):
    heads = HeadMap(counts)
    return HeadScores(np.arange(1.0, len(heads) + 1) if values is None else values, heads, method)


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def drawn(axis):
    return axis.images[0].get_array().filled(np.nan)


def colour_bar(figure):
    return next(axis for axis in figure.axes if not axis.images)


def stars(axis):
    return {tuple(reversed(text.get_position())) for text in axis.texts if text.get_text() == "★"}


# -- heat maps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[4, 4], [12] * 12, [3, 1, 2], [1], [2, 0, 3]])
def test_a_heat_map_draws_each_score_at_its_layer_and_head(counts):
    found = scores(counts)

    (axis,) = panels(heat_map(found))

    assert np.array_equal(drawn(axis), found.to_numpy(), equal_nan=True)
    assert axis.images[0].origin == "lower"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("head", "layer")
    assert axis.get_xticks().tolist() == list(range(max(counts)))
    assert axis.get_yticks().tolist() == list(range(len(counts)))


def test_each_stack_has_a_panel_of_its_own():
    found = scores({"encoder": [2, 2], "decoder": [3], "cross": [3]})

    axes = panels(heat_map(found))

    assert [axis.get_ylabel() for axis in axes] == ["encoder layer", "decoder layer", "cross layer"]
    assert [drawn(axis).tolist() for axis in axes] == [[[1, 2], [3, 4]], [[5, 6, 7]], [[8, 9, 10]]]
    assert len({axis.images[0].get_clim() for axis in axes}) == 1


def test_only_heads_are_outlined():
    (axis,) = panels(heat_map(scores([3, 1])))

    (outlines,) = [found for found in axis.collections if isinstance(found, PatchCollection)]
    assert len(outlines.get_paths()) == 4


def test_many_heads_are_not_all_numbered():
    (axis,) = panels(heat_map(scores([40, 40])))

    assert axis.get_xticks().tolist() == list(range(0, 40, 3))


def test_the_colour_bar_names_the_method_and_the_title_is_shown_as_it_is():
    figure = heat_map(scores([4, 4]), "cost in $ of $m$")

    assert colour_bar(figure).get_ylabel() == "gradient"
    assert figure.get_suptitle() == "cost in $ of $m$"
    assert not figure._suptitle.get_parse_math()


def test_long_titles_are_broken():
    figure = heat_map(scores([4, 4]), "importance\n" + "a/model-of-a-long-name " * 4)

    lines = figure.get_suptitle().splitlines()
    assert lines[0] == "importance"
    assert len(lines) > 2


@pytest.mark.parametrize(
    ("values", "limits"),
    [([0.0, 1.0, 4.0], (0, 4)), ([-1.0, 0.0, 4.0], (-4, 4)), ([-3.0, -2.0, -1.0], (-3, 3)), ([0.0] * 3, (0, 1))],
)
def test_colours_start_at_zero_or_are_centred_on_it(values, limits):
    (axis,) = panels(heat_map(scores([3], np.array(values))))

    assert axis.images[0].get_clim() == limits
    assert axis.images[0].get_cmap().name == ("RdBu" if min(values) < 0 else "viridis")


def test_scores_of_no_heads_are_refused():
    with pytest.raises(InvalidArgument, match="one head or more"):
        heat_map(scores([]))


# -- ablation ----------------------------------------------------------------------------------------------------


def test_an_ablation_map_draws_the_change_and_stars_what_is_significant():
    figure = ablation_map(ablated(), "planted")

    (axis,) = panels(figure)
    assert np.array_equal(drawn(axis), ablated().score_change.to_numpy())
    assert stars(axis) == {(1, 2)}
    assert axis.images[0].get_clim() == (-0.5, 0.5)
    assert axis.images[0].get_cmap().name == "RdBu"
    assert "change in accuracy" in colour_bar(figure).get_ylabel()
    assert figure.get_supxlabel() == "zero ablation; baseline accuracy 1.0000\n★ holm-corrected p ≤ 0.05: 1 of 12 heads"


def test_where_less_is_better_a_rise_is_red():
    figure = ablation_map(ablate_heads(planted_model(WORKING), TASK.with_metric("loss")))

    assert panels(figure)[0].images[0].get_cmap().name == "RdBu_r"


def test_too_few_resamples_are_told_and_star_nothing():
    figure = ablation_map(ablated(resamples=50))

    assert stars(panels(figure)[0]) == set()
    assert "50 resamples are too few" in figure.get_supxlabel()


def test_uncorrected_p_values_are_called_so():
    assert "★ p ≤ 0.05: 1 of 12" in ablation_map(ablated(correction=None)).get_supxlabel()


def test_stars_are_seen_on_any_colour():
    found = scores([2], np.array([-1.0, 0.0]))

    (axis,) = panels(heat_map(found, marked=found.heads))

    colours = {tuple(text.get_position()): text.get_color() for text in axis.texts}
    assert colours == {(0, 0): "white", (1, 0): "black"}


def test_all_but_one_stars_the_best_head_of_each_layer():
    report = ablate_all_but_one(planted_model(WORKING), TASK)

    figure = all_but_one_map(report)

    (axis,) = panels(figure)
    assert np.array_equal(drawn(axis), report.score_change.to_numpy())
    assert stars(axis) == {(0, 0), (1, 2), (2, 0)}


# -- curves ------------------------------------------------------------------------------------------------------


def test_a_curve_draws_scores_over_fractions_and_the_baseline():
    figure = curve(measured_curve(), "planted")

    (axis,) = figure.axes
    line, baseline = axis.lines
    assert (
        line.get_xdata().tolist() if hasattr(line.get_xdata(), "tolist") else list(line.get_xdata()) == [0, 25, 50, 100]
    )
    assert list(line.get_ydata()) == list(measured_curve().scores)
    assert set(baseline.get_ydata()) == {measured_curve().baseline}
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("heads masked (%)", "accuracy")
    assert figure.get_suptitle() == "planted"


def test_a_tolerance_is_shaded_and_the_largest_fraction_within_it_marked():
    (axis,) = curve(measured_curve(), tolerance=0.1).axes

    assert axis.lines[-1].get_xdata()[0] == 100 * measured_curve().largest_within(0.1)
    assert "within 0.1: 50%" in [text.get_text() for text in axis.get_legend().get_texts()]


# -- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "start"), [("png", b"\x89PNG"), ("PNG", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_ending_says_the_format(tmp_path, ending, start):
    path = save_figure(scores([4, 4]), tmp_path / f"map.{ending}", title="importance")

    assert path == tmp_path / f"map.{ending}"
    assert path.read_bytes().startswith(start)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["map.jpeg", "map", "map.txt"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(InvalidArgument, match=r"\.png, \.svg, \.pdf"):
        save_figure(scores([4]), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make", [ablated, measured_curve, lambda: ablate_all_but_one(planted_model(WORKING), TASK), Figure]
)
def test_all_results_that_have_a_figure_are_saved(tmp_path, make):
    path = save_figure(make(), tmp_path / "found.png")

    with Image.open(path) as image:
        assert min(image.size) > 100


def test_what_no_figure_shows_is_refused(tmp_path):
    for thing in (3, "scores", np.zeros((2, 2)), Figure):
        with pytest.raises(InvalidArgument, match="head scores, a report on ablation"):
            save_figure(thing, tmp_path / "found.png")


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = save_figure(scores([4]), tmp_path / "map.png")
    before = path.read_bytes()

    def fails(self, file, **_):
        file.write_bytes(b"half a fig")
        raise OSError("the disk is full")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OSError, match="full"):
        save_figure(scores([8]), path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"there is no folder '{tmp_path}/gone' to write to: .*map.png'$"):
        save_figure(scores([4]), tmp_path / "gone" / "map.png")


def test_results_that_no_single_figure_shows_say_what_to_draw():
    views = {
        AttentionMaps: r"\.view\(head\)", AttentionProbe: r"\.to_head", CatReport: r"\.by_head",
        HeadClusters: "the pair", LayerDistances: r"\.table\(\)", RoleReport: r"\.positional",
    }  # fmt: skip
    for kind, told in views.items():
        with pytest.raises(InvalidArgument, match=told):
            figure_of(kind.__new__(kind))


def test_curves_are_titled_by_model_and_task():
    found = measured_curve()

    assert found.model
    assert curve(found).get_suptitle() == f"{found.model} on {found.task}"
    constant = constant_curve(planted_model(WORKING), TASK, ["a text " * 8], fractions=(0.0, 0.5))
    assert figure_of(constant).get_suptitle() == f"{constant.model} on {TASK.name}" == curve(found).get_suptitle()


def test_names_that_the_font_lacks_warn_nobody(tmp_path):
    save_figure(scores([4]), tmp_path / "map.png", title="模型 on données")


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(MissingExtra, match=r'pip install "pytest-bertology\[figures\]"'):
        figure_of(scores([4]))


def test_drawing_leaves_pyplot_and_the_backend_alone(tmp_path):
    code = (
        "import sys; from pytest_bertology import HeadMap, HeadScores, save_figure\n"
        "import pytest_bertology.report.figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"save_figure(HeadScores([1, 2], HeadMap([2]), 'gradient'), {str(tmp_path / 'map.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
