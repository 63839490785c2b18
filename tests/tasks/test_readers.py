"""Files written by hand, or by the csv, json, pyarrow and datasets libraries, and read back as the same columns."""

from __future__ import annotations

import csv
import json
import re
import time
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_bertology.errors import MalformedData, TaskNotFound
from pytest_bertology.tasks.readers import read

COLUMNS = {"sentence": ["good film", 'a "bad" one'], "label": ["1", "0"]}
CELLS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00\r"), min_size=1, max_size=8)


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def small(labels: list[int] | None = None, names: tuple[str, ...] = ("neg", "pos")) -> datasets.Dataset:
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    return datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": labels or [0, 1]}, features=features)


# -- delimited files ---------------------------------------------------------------------------------------------


def test_a_csv_is_read_with_its_quotes_and_line_breaks(tmp_path):
    path = written(tmp_path, "dev.csv", 'sentence,label\n"one, two\nthree ""four""",1\nfive,0\n')

    table = read(path, None)

    assert table.columns == {"sentence": ['one, two\nthree "four"', "five"], "label": ["1", "0"]}
    assert (table.name, table.rows, table.class_names) == ("dev.csv", 2, {})


@settings(deadline=None, database=None, max_examples=30)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4))
def test_what_the_csv_library_writes_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "dev.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("sentence", "label"), *rows])

    table = read(path, None)

    assert list(zip(table.columns["sentence"], table.columns["label"], strict=True)) == rows


def test_quotation_marks_in_a_tsv_quote_nothing(tmp_path):
    path = written(tmp_path, "dev.tsv", 'sentence\tlabel\n"good film\t1\na "bad" one\t0\n')

    assert read(path, None).columns == {"sentence": ['"good film', 'a "bad" one'], "label": ["1", "0"]}


@pytest.mark.parametrize("ending", [".csv", ".CSV"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path, ending):
    path = written(tmp_path, f"dev{ending}", b"\xef\xbb\xbfsentence,label\r\na,1\r\nb,0\r\n")

    assert read(path, None).columns == {"sentence": ["a", "b"], "label": ["1", "0"]}


def test_a_byte_order_mark_is_no_part_of_jsonl(tmp_path):
    path = written(tmp_path, "dev.jsonl", b'\xef\xbb\xbf{"text": "a"}\n')

    assert read(path, None).columns == {"text": ["a"]}


def test_blank_lines_are_no_rows(tmp_path):
    path = written(tmp_path, "dev.csv", "sentence,label\n\na,1\n\nb,0\n\n")

    assert read(path, None).rows == 2


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize(("row", "fields"), [(("b",), 1), (("b", "0", "more"), 3)])
def test_a_ragged_row_is_refused_with_its_number(tmp_path, ending, row, fields):
    mark = {"csv": ",", "tsv": "\t"}[ending]
    rows = [("sentence", "label"), ("a", "1"), row]
    path = written(tmp_path, f"dev.{ending}", "\n".join(map(mark.join, rows)))

    with pytest.raises(MalformedData, match=f"row 3 has {fields} fields and the header 2: sentence, label"):
        read(path, None)


def test_a_header_with_one_name_twice_is_refused(tmp_path):
    path = written(tmp_path, "dev.csv", "text,label,text\na,1,b\n")

    with pytest.raises(MalformedData, match="two columns have one name: text, label, text"):
        read(path, None)


def test_an_unclosed_quote_is_refused(tmp_path):
    path = written(tmp_path, "dev.csv", 'sentence,label\n"a,1\nb,0\n')

    with pytest.raises(MalformedData, match=re.escape(str(path))):
        read(path, None)


@pytest.mark.parametrize("name", ["dev.csv", "dev.tsv", "dev.jsonl"])
def test_a_file_that_is_not_utf_8_is_refused(tmp_path, name):
    path = written(tmp_path, name, "sentence,label\ncafé,1\n".encode("latin-1"))

    with pytest.raises(MalformedData, match="utf-8"):
        read(path, None)


@pytest.mark.parametrize(
    ("name", "text"), [("dev.csv", ""), ("dev.csv", "sentence,label\n"), ("dev.tsv", ""), ("dev.jsonl", "\n")]
)
def test_a_file_without_examples_has_no_rows(tmp_path, name, text):
    assert read(written(tmp_path, name, text), None).rows == 0


# -- jsonl and parquet -------------------------------------------------------------------------------------------


def test_jsonl_is_read_with_its_types(tmp_path):
    rows = [{"tokens": ["a", "b"], "score": 0.5, "label": 1}, {"tokens": ["c"], "score": -1, "label": 0}]
    path = written(tmp_path, "dev.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")

    assert read(path, None).columns == {"tokens": [["a", "b"], ["c"]], "score": [0.5, -1], "label": [1, 0]}


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ("{", "line 3 is not JSON"),
        ("[1]", "line 3 is not an object"),
        ('{"text": "b"}', "line 3 has ['text'], and the first has ['label', 'text']"),
        ('{"text": "b", "label": 0, "id": 1}', "line 3 has ['id', 'label', 'text']"),
    ],
)
def test_a_bad_line_of_jsonl_is_refused_with_its_number(tmp_path, second, problem):
    path = written(tmp_path, "dev.jsonl", '{"text": "a", "label": 1}\n\n' + second)

    with pytest.raises(MalformedData, match=re.escape(problem)):
        read(path, None)


def test_parquet_is_read_with_its_types(tmp_path):
    columns = {"tokens": [["a", "b"], ["c"]], "label": [1, 0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "dev.parquet")

    assert read(tmp_path / "dev.parquet", None).columns == columns


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1junkPAR1"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path, content):
    with pytest.raises(MalformedData, match="not a parquet file"):
        read(written(tmp_path, "dev.parquet", content), None)


# -- what is not there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_current_folder(name):
    with pytest.raises(TaskNotFound, match="the name is empty"):
        read(name, None)


@pytest.mark.parametrize("name", ["gone.csv", "gone.parquet", "./gone", "/nowhere/gone", "data/dev/gone.jsonl"])
def test_a_path_that_is_not_there_is_not_asked_of_the_hub(monkeypatch, name):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("the hub was asked"))

    with pytest.raises(TaskNotFound, match="there is no such file"):
        read(name, None)


def test_a_file_of_another_ending_is_refused_with_those_that_are_read(tmp_path):
    path = written(tmp_path, "dev.xlsx", b"PK")

    with pytest.raises(TaskNotFound, match=re.escape(".csv, .tsv, .jsonl, .parquet")):
        read(path, None)


# -- columns and live data sets ----------------------------------------------------------------------------------


def test_a_mapping_of_columns_is_read_as_it_is():
    table = read({"text": ("a", "b"), "label": [1, 0]}, None)

    assert table.columns == {"text": ["a", "b"], "label": [1, 0]}


def test_columns_of_different_length_are_refused_with_their_lengths():
    with pytest.raises(MalformedData, match=re.escape("{'premise': 2, 'hypothesis': 1, 'label': 2}")):
        read({"premise": ["a", "b"], "hypothesis": ["c"], "label": [0, 1]}, None)


@pytest.mark.parametrize("column", ["abc", 5, None])
def test_a_column_that_is_no_list_is_refused(column):
    with pytest.raises(MalformedData, match="column 'text' is not a list"):
        read({"text": column, "label": [0, 1, 1]}, None)


def test_a_dataset_is_read_with_the_names_of_its_classes():
    table = read(small(), None)

    assert table.columns == {"sentence": ["a", "b"], "label": [0, 1]}
    assert table.class_names == {"label": ("neg", "pos")}


def test_the_class_names_of_word_labels_are_found():
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    data = datasets.Dataset.from_dict({"tokens": [["Ann", "ran"]], "ner_tags": [[1, 0]]}, features=features)

    table = read(data, None)

    assert table.columns["ner_tags"] == [[1, 0]]
    assert table.class_names == {"ner_tags": ("O", "B-PER")}


def test_the_validation_split_is_read_unless_another_is_named():
    splits = datasets.DatasetDict(train=small([0, 0]), validation=small([0, 1]), test=small([1, 1]))

    assert read(splits, None).columns["label"] == [0, 1]
    assert read(splits, "train").columns["label"] == [0, 0]
    assert read(splits, "test").name == "the data set[test]"


@pytest.mark.parametrize("name", ["dev", "val", "validation"])
def test_a_split_for_development_is_known_by_its_usual_names(name):
    splits = datasets.DatasetDict({"train": small([0, 0]), name: small([1, 0])})

    assert read(splits, None).columns["label"] == [1, 0]


def test_the_only_split_needs_no_name():
    assert read(datasets.DatasetDict(everything=small([1, 0])), None).columns["label"] == [1, 0]


def test_a_split_that_is_not_there_is_refused_with_those_that_are():
    splits = datasets.DatasetDict(train=small(), validation=small())

    with pytest.raises(TaskNotFound, match="no split 'dev', but train, validation"):
        read(splits, "dev")


def test_several_splits_none_of_which_is_for_validation_must_be_chosen_from():
    splits = datasets.DatasetDict(train=small(), validation_matched=small(), validation_mismatched=small())

    with pytest.raises(TaskNotFound, match="train, validation_matched, validation_mismatched: name one with split="):
        read(splits, None)


# -- folders -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """`datasets` prepares files in its cache; here, in a folder that goes again."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_a_saved_dataset_is_read_from_its_folder(tmp_path):
    small().save_to_disk(str(tmp_path / "sst"))

    table = read(tmp_path / "sst", None)

    assert table.columns == {"sentence": ["a", "b"], "label": [0, 1]}
    assert table.class_names == {"label": ("neg", "pos")}
    assert table.name == "sst"


def test_a_saved_dataset_dict_is_read_by_split(tmp_path):
    datasets.DatasetDict(train=small([0, 0]), validation=small([1, 0])).save_to_disk(str(tmp_path / "sst"))

    assert read(str(tmp_path / "sst"), None).columns["label"] == [1, 0]
    assert read(str(tmp_path / "sst"), "train").name == "sst[train]"


@pytest.mark.usefixtures("own_cache")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pandas 2 leaves the file open
def test_a_folder_of_files_is_read_by_split(tmp_path):
    written(tmp_path, "train.csv", "sentence,label\na,0\nb,0\n")
    written(tmp_path, "validation.csv", "sentence,label\nc,1\nd,0\n")

    table = read(tmp_path, None)

    assert table.columns == {"sentence": ["c", "d"], "label": [1, 0]}


@pytest.mark.usefixtures("own_cache")
def test_a_folder_without_data_is_refused(tmp_path):
    with pytest.raises(TaskNotFound, match=re.escape(str(tmp_path))):
        read(tmp_path, None)


# -- the hub -----------------------------------------------------------------------------------------------------


class Hub:
    """Stands in for `datasets.load_dataset`: knows some names, and notes what it was asked for."""

    def __init__(self, **known: datasets.DatasetDict) -> None:
        self.known = known
        self.asked: list[tuple[str, str | None]] = []

    def __call__(self, repository: str, config: str | None = None) -> datasets.DatasetDict:
        self.asked.append((repository, config))
        found = self.known.get(f"{repository}:{config}")
        if found is None:
            raise datasets.exceptions.DatasetNotFoundError(f"no {repository}\nand more lines")
        return found


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub)
    return hub


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("glue/sst2", ("glue", "sst2")),
        ("nyu-mll/glue/sst2", ("nyu-mll/glue", "sst2")),
        ("stanfordnlp/sst2", ("stanfordnlp/sst2", None)),
        ("imdb", ("imdb", None)),
        ("cais/mmlu", ("cais/mmlu", None)),
    ],
)
def test_a_hub_name_is_read_as_owner_name_and_config(hub, name, asked):
    hub.known = {f"{asked[0]}:{asked[1]}": datasets.DatasetDict(train=small([0, 0]), validation=small([1, 0]))}

    table = read(name, None)

    assert hub.asked == [asked]
    assert table.columns["label"] == [1, 0]
    assert table.name == f"{name}[validation]"


def test_two_parts_are_tried_as_a_repository_before_a_configuration(hub):
    hub.known = {"rotten:tomatoes": datasets.DatasetDict(validation=small())}

    read("rotten/tomatoes", None)

    assert hub.asked == [("rotten/tomatoes", None), ("rotten", "tomatoes")]


def test_a_hub_name_that_is_not_found_says_what_was_asked_and_answered(hub):
    with pytest.raises(TaskNotFound) as caught:
        read("rotten/tomatoes", None)

    assert "rotten/tomatoes: no rotten/tomatoes; rotten (tomatoes): no rotten" in str(caught.value)
    assert "and more lines" not in str(caught.value)


@pytest.mark.parametrize("name", ["a/b/c/d", "glue//sst2", "glue/"])
def test_what_can_be_no_hub_name_is_refused_unasked(hub, name):
    with pytest.raises(TaskNotFound, match="a hub name is owner/name"):
        read(name, None)

    assert hub.asked == []


def test_without_a_network_a_hub_name_fails_at_once():
    start = time.monotonic()

    with pytest.raises(TaskNotFound, match="cannot load the task 'nobody/nothing-here'"):
        read("nobody/nothing-here", None)

    assert time.monotonic() - start < 10


def test_the_embedded_task_is_loaded_by_a_function_of_its_own():
    with pytest.raises(TaskNotFound, match=r"load_embedded_task\(\)"):
        read("embedded", None)
