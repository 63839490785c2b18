"""Files of baselines, against json's own reading and a line by line difference."""

from __future__ import annotations

import difflib
import json

import pytest

from pytest_bertology.baselines.files import as_stored, digest_of, read_baselines, write_baselines
from pytest_bertology.errors import InvalidBaselines


def entry(values=(1.0, 2.5), **match):
    return {"match": match, "warn": {}, "recorded": {"model": "m"}, "content": {"values": list(values)}}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "bertology_baselines" / "test_x.json"


def test_what_is_written_is_read_again(file):
    entries = {"test_b/x": entry(way="figures"), "test_a/é": entry((1e-12, -3.0), labels=["no", "\u2028"])}

    assert write_baselines(file, entries)

    assert read_baselines(file) == {name: as_stored(each) for name, each in entries.items()}
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_order_of_entries_and_keys_does_not_matter_and_the_same_is_not_written_again(file):
    one, other = entry(b=1, a=2), entry()
    write_baselines(file, {"test_b/x": one, "test_a/x": other})
    content = file.read_bytes()

    changed = write_baselines(file, {"test_a/x": other, "test_b/x": {**one, "match": {"a": 2, "b": 1}}})

    assert not changed
    assert file.read_bytes() == content
    assert list(json.loads(content)["entries"]) == ["test_a/x", "test_b/x"]


def test_a_number_that_changes_changes_one_line_and_the_digest(file):
    values = [i / 7 for i in range(100)]
    write_baselines(file, {"test_a/x": entry(values)})
    before = file.read_text().splitlines()
    values[50] += 1.0
    write_baselines(file, {"test_a/x": entry(values)})

    changed = [line for line in difflib.ndiff(before, file.read_text().splitlines()) if line[0] in "+-"]

    assert len(changed) == 4
    assert sum("digest" in line for line in changed) == 2


def test_numbers_have_nine_significant_digits(file):
    write_baselines(file, {"test_a/x": entry([1 / 3, 2e9 / 3, 1.0, 1.00000000001])})

    assert read_baselines(file)["test_a/x"]["content"]["values"] == [0.333333333, 666666667.0, 1, 1]


def test_rounding_noise_beyond_that_leaves_the_digest_as_it_is():
    assert digest_of(entry([1 / 3])) == digest_of(entry([1 / 3 + 1e-13])) != digest_of(entry([1 / 3 + 1e-6]))


def test_a_file_without_entries_goes(file):
    write_baselines(file, {"test_a/x": entry()})

    assert write_baselines(file, {})
    assert not file.exists()
    assert read_baselines(file) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_written(file, value):
    with pytest.raises(ValueError, match="cannot be kept"):
        write_baselines(file, {"test_a/x": entry([value])})
    assert not file.exists()


def damaged(change):
    def damage(file):
        write_baselines(file, {"test_a/x": entry()})
        file.write_text(change(file.read_text()))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damaged(lambda text: text[:-30]), "not JSON"),
        (damaged(lambda text: text.replace("2.5", "2.6")), "edited by hand"),
        (damaged(lambda text: text.replace('"m"', '"other"')), "edited by hand"),
        (damaged(lambda text: text.replace("baselines 1", "baselines 2")), "'pytest-bertology baselines 2'"),
        (damaged(lambda text: "<<<<<<< HEAD\n" + text), "merge"),
        (damaged(lambda text: text.replace('"warn"', '"worn"')), "has no 'warn'"),
        (damaged(lambda text: text.replace('"warn": {}', '"warn": 3')), "no objects"),
        (damaged(lambda text: text.replace('"match": {},', '"match": {}, "match": {},')), "there twice"),
        (damaged(lambda text: text.replace("2.5", "NaN")), "no number of JSON"),
        (damaged(lambda text: "[]"), "its schema is None"),
        (lambda file: file.write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda file: file.write_text("[" * 100_000), "not JSON"),
    ],
)
def test_a_damaged_file_is_refused_and_the_message_names_file_fault_and_remedy(file, damage, said):
    file.parent.mkdir()
    damage(file)

    with pytest.raises(InvalidBaselines, match="--bertology-update=new") as raised:
        read_baselines(file)

    assert str(file) in str(raised.value)
    assert said in str(raised.value)
