"""`example_suites/release_gate` as shipped: what it says of a model with a fault, and of an equal one saved again.

The oracles are the faults: each is put by hand into the files of a real fine-tuned model (minilm-sst2), with plain
transformers and json, and so is the re-save. The baselines are those that the suite wrote of the model without.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_bertology.plugin.options import OPTIONS

pytestmark = pytest.mark.slow

SUITE = Path(__file__).parents[2] / "example_suites" / "release_gate"
WORKFLOWS = ("github-actions.yml", "github-actions-gpu.yml")
EXAMPLES = 320
"""The shortest of SST-2's dev set: enough to establish a point, and quick. All of it is for a run by hand."""


def changed(folder: Path, change: Callable[[Any], None], shard: str = "5GB") -> None:
    """Change the weights with plain transformers."""
    import torch
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        change(model)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size=shard)


def edit(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def save_again(folder: Path) -> None:
    changed(folder, lambda model: None, shard="30MB")
    assert len(list(folder.glob("*.safetensors"))) > 1


def zero_head(folder: Path, layer: int, head: int) -> None:
    def change(model: Any) -> None:
        width = model.config.hidden_size // model.config.num_attention_heads
        output = model.bert.encoder.layer[layer].attention.output.dense
        output.weight[:, head * width : (head + 1) * width] = 0.0

    changed(folder, change)


def round_to_int8(folder: Path, *, by_row: bool = False) -> None:
    """Symmetric, one scale for each tensor, or for each row of it."""

    def change(model: Any) -> None:
        for weights in (each for each in model.parameters() if each.ndim > 1):
            scale = (weights.abs().amax(dim=1, keepdim=True) if by_row else weights.abs().max()) / 127.0
            weights.copy_((weights / scale.clamp(min=1e-12)).round() * scale)

    changed(folder, change)


def swap_rows(folder: Path) -> None:
    def change(model: Any) -> None:
        model.classifier.weight.copy_(model.classifier.weight.flip(0))
        model.classifier.bias.copy_(model.classifier.bias.flip(0))

    changed(folder, change)


def swap_names(folder: Path) -> None:
    swapped = {"id2label": {"0": "positive", "1": "negative"}, "label2id": {"positive": 0, "negative": 1}}
    edit(folder / "config.json", lambda config: config.update(swapped))


def swap_words(folder: Path) -> None:
    def change(tokenizer: Any) -> None:
        words = tokenizer["model"]["vocab"]
        words["film"], words["movie"] = words["movie"], words["film"]

    edit(folder / "tokenizer.json", change)


def keep_capitals(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda tokenizer: tokenizer["normalizer"].update(lowercase=False))
    edit(folder / "tokenizer_config.json", lambda config: config.update(do_lower_case=False))


def drop_special_tokens(folder: Path) -> None:
    # A BertTokenizer builds its own post-processor, whatever its file says.
    edit(folder / "tokenizer.json", lambda tokenizer: tokenizer.update(post_processor=None))
    edit(folder / "tokenizer_config.json", lambda config: config.update(tokenizer_class="PreTrainedTokenizerFast"))


def cut_texts(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda config: config.update(model_max_length=16))


@dataclass
class Gate:
    """A copy of the suite with baselines of the approved model, and what it says of candidates."""

    pytester: pytest.Pytester
    folder: Path
    approved: Path

    def run(self, model: Path, *arguments: str) -> pytest.RunResult:
        data, store = self.folder / "dev.tsv", self.folder / "store"
        options = (f"--bertology-model={model}", f"--bertology-task={data}", f"--bertology-store={store}")
        return self.pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", str(self.folder / "release_gate"), *options, *arguments
        )

    def candidate(self, fault: Callable[..., None], *arguments: Any, **options: Any) -> Path:
        """The approved model with a fault."""
        copy = Path(shutil.copytree(self.approved, self.pytester.path / "candidate"))
        fault(copy, *arguments, **options)
        return copy

    def heads(self) -> list[tuple[int, int]]:
        """All heads by importance, as the suite's own baseline has it."""
        kept = json.loads((self.folder / "release_gate/bertology_baselines/test_release_gate.json").read_text())
        (entry,) = (each for each in _entries(kept) if each["match"].get("value") == "HeadScores")
        scores = entry["content"]["scores"]
        ranked = ((value, int(layer[1:]), head) for layer in scores for head, value in enumerate(scores[layer]))
        return [(layer, head) for _, layer, head in sorted(ranked, reverse=True)]


def _entries(kept: dict[str, Any]) -> list[dict[str, Any]]:
    return list(kept["entries"].values())


def shortest(file: Path, count: int) -> str:
    header, *rows = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    chosen = sorted(sorted(range(len(rows)), key=lambda row: (len(rows[row]), row))[:count])
    return "\n".join([header, *(rows[row] for row in chosen), ""])


@pytest.fixture(scope="session")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture
def gate(pytester: pytest.Pytester, assets: Path, _folder: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.delenv("CI", raising=False)
    found = Gate(pytester, _folder, assets / "checkpoints" / "minilm-sst2")
    if not (_folder / "release_gate").exists():
        shutil.copytree(SUITE, _folder / "release_gate", ignore=shutil.ignore_patterns("bertology_baselines"))
        text = shortest(assets / "data" / "sst2" / "dev.tsv", EXAMPLES)
        (_folder / "dev.tsv").write_text(text, encoding="utf-8")
        assert found.run(found.approved, "--bertology-update=new").ret == 0
    return found


def failed(result: pytest.RunResult) -> set[str]:
    """Which tests failed."""
    return {found[1] for line in result.outlines if (found := re.match(r"FAILED \S+::test_(\w+)", line))}


ACCURATE, ANSWERS, SURE, PRUNING = (
    "it_is_as_accurate_as_what_was_approved",
    "it_answers_as_it_did",
    "it_is_as_sure_as_it_was",
    "it_survives_the_pruning_that_production_does",
)
HEADS, DEAD, ATTENTION, TOKENS = (
    "its_important_heads_are_still_the_important_ones",
    "no_head_has_died",
    "its_attention_looks_the_same",
    "the_tokenizer_reads_the_data_as_before",
)


@pytest.mark.assets
def test_an_equal_model_saved_again_in_other_shards_passes(gate: Gate):
    result = gate.run(gate.candidate(save_again))

    assert result.ret == 0, result.stdout.str()
    result.assert_outcomes(passed=8)


@pytest.mark.assets
def test_the_most_important_head_zeroed_is_caught_and_named(gate: Gate, section: Any):
    layer, head = gate.heads()[0]

    result = gate.run(gate.candidate(zero_head, layer, head))

    assert {HEADS, DEAD, ATTENTION} <= failed(result)
    assert f"L{layer}H{head} was rank 0, is rank 71" in section(result, f"test_{HEADS}")
    assert f"L{layer}H{head}: 0 → 1" in section(result, f"test_{DEAD}")


@pytest.mark.assets
def test_the_least_important_head_zeroed_is_caught_too(gate: Gate, section: Any):
    layer, head = gate.heads()[-1]

    result = gate.run(gate.candidate(zero_head, layer, head), "-k", DEAD)

    assert failed(result) == {DEAD}
    assert f"L{layer}H{head}: 0 → 1" in section(result, f"test_{DEAD}")


@pytest.mark.assets
def test_weights_rounded_to_int8_are_caught(gate: Gate, section: Any):
    result = gate.run(gate.candidate(round_to_int8))

    assert {ATTENTION, SURE} <= failed(result)
    assert "became wrong and" in section(result, f"test_{SURE}")
    assert "moved further from the baseline than they may" in section(result, f"test_{ATTENTION}")


@pytest.mark.assets
def test_swapped_rows_of_the_classifier_are_caught(gate: Gate, section: Any):
    result = gate.run(gate.candidate(swap_rows), "-k", "accurate or answers or sure")

    assert failed(result) == {ACCURATE, ANSWERS, SURE}
    found = section(result, f"test_{ACCURATE}")
    right = re.search(r"baseline +0\.\d+ \((\d+) of 320 right\)", found)
    assert right is not None
    assert f"({EXAMPLES - int(right[1])} of 320 right)" in found


@pytest.mark.assets
def test_swapped_names_of_labels_are_caught_though_no_score_changes(gate: Gate, section: Any):
    result = gate.run(gate.candidate(swap_names), "-k", "accurate or answers or sure")

    assert {ACCURATE, ANSWERS, SURE} <= failed(result)
    assert "[negative, positive] → [positive, negative]" in section(result, f"test_{ACCURATE}")


@pytest.mark.assets
@pytest.mark.parametrize("fault", [swap_words, keep_capitals, drop_special_tokens, cut_texts])
def test_another_tokenizer_is_caught(gate: Gate, fault: Callable[[Path], None], section: Any):
    result = gate.run(gate.candidate(fault), "-k", "tokenizer or answers", "-W", "ignore")

    assert failed(result) == {ANSWERS, TOKENS}
    said = "accents, special tokens or other scripts" if fault is keep_capitals else "reads the same data differently"
    assert said in section(result, f"test_{ANSWERS}")
    if fault is swap_words:
        assert "first token of 'film': 2143 → 3185" in section(result, f"test_{TOKENS}")


@pytest.mark.assets
def test_beside_a_reference_model_a_zeroed_head_and_another_tokenizer_are_caught_and_an_equal_model_is_not(gate: Gate):
    reference = f"--bertology-reference={gate.approved}"
    layer, head = gate.heads()[0]
    both = gate.candidate(zero_head, layer, head)
    swap_words(both)

    assert {DEAD, TOKENS} <= failed(gate.run(both, reference, "-k", "died or tokenizer"))
    assert gate.run(gate.approved, reference, "-k", "not pruning").ret == 0


@pytest.mark.assets
def test_other_data_than_the_baselines_are_of_are_named(gate: Gate, section: Any):
    other = gate.pytester.path / "other.tsv"
    lines = (gate.folder / "dev.tsv").read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join([*lines[:-20], ""]), encoding="utf-8")

    result = gate.run(gate.approved, f"--bertology-task={other}", "-k", "accurate")

    found = section(result, f"test_{ACCURATE}")
    assert "nothing can be compared with the baseline: data, examples differ" in found
    assert "tokenizer" not in found


def test_without_a_model_the_gate_is_not_green(pytester: pytest.Pytester):
    shutil.copytree(SUITE, pytester.path / "release_gate")

    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "release_gate")

    result.assert_outcomes(errors=8)
    result.stdout.fnmatch_lines(["nothing was judged. Skipped: no model to test: give --bertology-model *"])


def test_limits_have_reasons():
    """Each constant is followed by its reason."""
    source = (SUITE / "test_release_gate.py").read_text(encoding="utf-8")

    constants = re.findall(r"^([A-Z_]+) = .*\n(.*)", source, re.MULTILINE)

    assert len(constants) >= 6
    assert [name for name, below in constants if not below.startswith('"""')] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_are_yaml_with_options_that_exist_and_no_secret(name: str):
    text = (SUITE / name).read_text(encoding="utf-8")

    workflow = yaml.safe_load(text)

    flags = {option.flag_name for option in OPTIONS}
    given = set(re.findall(r"--bertology-[a-z-]+", text))
    assert {"--bertology-model", "--bertology-task", "--bertology-report-html", "--bertology-report-json"} <= given
    assert given <= flags
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    (job,) = workflow["jobs"].values()
    (gate,) = (step for step in job["steps"] if step.get("name") == "Gate")
    assert "${{" not in gate["run"]  # inputs reach the shell as variables
    (upload,) = (step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert upload["if"] == "${{ !cancelled() }}"
    assert ("--bertology-require-gpu" in given) == ("gpu" in job["runs-on"])


def test_the_readme_names_every_test():
    names = re.findall(r"^def (test_\w+)", (SUITE / "test_release_gate.py").read_text(encoding="utf-8"), re.MULTILINE)

    readme = (SUITE / "README.md").read_text(encoding="utf-8")

    assert re.findall(r"^\| `(test_\w+)`", readme, re.MULTILINE) == names
    assert set(re.findall(r"--bertology-[a-z-]+", readme)) <= {option.flag_name for option in OPTIONS}
