"""CAT-scores of real models on functions of the standard library, beside what they are to be compared with; and time.

For each model: its score by layer; those of random attention and of attention by distance in the text alone (both the
report's own: syntax trees join neighbours, so that the latter scores high); and that of the same model with weights
drawn anew, which knows nothing but has positions and equal tokens. Then the time of `cat_score` on the last layer over
that of plain forward passes over the same texts, in the same batches.

    python benchmarks/cat.py [--assets ../shared/assets] [--functions 220] [--rounds 3] [--threads 1]

Exits with 1 where a score is outside [0, 1], or takes more than 2 plain forwards of a model of a million parameters or
more (of a smaller one, parsing takes longer than running it).
"""

from __future__ import annotations

import argparse
import ast
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from pytest_bertology import Batching, ModelUnderTest, cat_score, load_embedded_model, load_model
from pytest_bertology.engine.batching import batches
from pytest_bertology.engine.texts import read_texts

FORWARDS = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--functions", type=int, default=220)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")  # of functions that are cut: they are counted in the table
    code = functions(arguments.functions)
    print(f"{len(code)} functions of the standard library, {sum(map(len, code)) // len(code)} characters each\n")
    failed = False
    models = {"embedded": load_embedded_model()}
    for name in ("minilm-mlm", "stories260K-hf"):
        if (arguments.assets / "checkpoints" / name).is_dir():
            models[name] = load_model(arguments.assets / "checkpoints" / name, device="cpu")
    for model in models.values():
        report = cat_score(model, code, layer="all")
        print(report.table())
        drawn = cat_score(redrawn(model), code, layer="all")
        print("drawn anew  " + ", ".join(f"{layer}: {score:.4f}" for layer, score in drawn.by_layer.items()))
        ratio = timed(model, code, arguments.rounds)
        print(f"time        {ratio:.2f} plain forwards (last layer)\n")
        large = sum(each.numel() for each in model.model.parameters()) >= 10**6
        scores = [score for score in report.scores if score is not None]
        failed |= (large and ratio > FORWARDS) or not 0.0 <= min(scores) <= max(scores) <= 1.0
    return int(failed)


def functions(count: int) -> list[str]:
    """Functions of moderate size from the standard library's modules, three of each, in the order of their names."""
    found: list[str] = []
    for path in sorted(Path(ast.__file__).parent.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.split("\n")
        bodies = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        texts = ["\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in bodies]
        found.extend([text for text in texts if 200 <= len(text) <= 700][:3])
    return found[:count]


def redrawn(model: ModelUnderTest) -> ModelUnderTest:
    """The same architecture, with weights as before any training."""
    torch.manual_seed(0)
    return load_model(type(model.model)(model.model.config).eval(), tokenizer=model.tokenizer)


def timed(model: ModelUnderTest, code: list[str], rounds: int) -> float:
    """The median, over rounds, of the time of `cat_score` over that of plain passes."""
    ratios = []
    for _ in range(rounds + 1):  # the first warms up
        start = time.perf_counter()
        with torch.inference_mode(), model.frozen():
            for batch in batches(model, read_texts(model, code).encoded, Batching()):
                model.model(**batch.inputs)
        plain = time.perf_counter() - start
        start = time.perf_counter()
        cat_score(model, code)
        ratios.append((time.perf_counter() - start) / plain)
    return statistics.median(ratios[1:])


if __name__ == "__main__":
    sys.exit(main())
