"""Runs made up by hand, as plain as the plugin gathers them: small ones for tests of words, large ones for a page."""

from __future__ import annotations

import random
from typing import Any

HOSTILE = (
    '<script>document.title="hacked"</script><img src=x onerror="document.title=1"> `code` | *bold* \x1b[31m\u202e'
)
"""What a data set may hold."""


def verdict(**fields: Any) -> dict[str, Any]:
    """A verdict that holds, but for what is said."""
    plain: dict[str, Any] = {
        "check": "assert_metric_retained", "passed": True, "observed": 0.0046, "required": "<= 0.01", "judged": "drop",
        "model": "minilm-sst2", "task": "sst2", "metric": "accuracy", "baseline": 0.9037, "score": 0.8991,
        "examples": 872, "heads": ["L0H1", "L3H4"], "details": {}, "inconclusive": False, "p_value": None,
        "evidence": {}, "message": "",
    }  # fmt: skip
    plain |= fields
    plain["outcome"] = "passed" if plain["passed"] else "inconclusive" if plain["inconclusive"] else "failed"
    return plain


def tested(name: str, *verdicts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A test with these verdicts; failed where one of them does not hold."""
    held = all(each["passed"] for each in verdicts)
    error = "\n".join(each["message"] for each in verdicts if not each["passed"])
    known = {"test": name, "outcome": "passed" if held else "failed", "seconds": 1.25, "verdicts": list(verdicts)}
    return {**known, "provenance": {"models": [], "tasks": []}, "error": error, "warnings": [], **fields}


def run(*tests: dict[str, Any], exit_status: int | None = None, **fields: Any) -> dict[str, Any]:
    """A run of these tests."""
    failed = any(test["outcome"] in ("failed", "error") for test in tests)
    return {
        "schema": "pytest-bertology report 1",
        "created": "2026-11-22T09:30:00+00:00",
        "exit_status": int(failed) if exit_status is None else exit_status,
        "notes": [],
        "settings": {
            "model": {"value": ["./release-candidate"], "source": "--bertology-model"},
            "task": {"value": "sst2/dev.tsv", "source": "bertology_task in pytest.ini"},
        },
        "versions": {"python": "3.11.2", "pytest-bertology": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "provenance": {
            "models": [
                {
                    "name": "minilm-sst2", "heads": "6 layers of 12 heads", "dtype": "float32", "device": "cpu",
                    "attention": "sdpa", "revision": "e4ce9877abf3edfe10b0d82785e83bdcb973e22e",
                    "weights": "0405e80d82f08387",
                }
            ],
            "tasks": [{"name": "sst2", "examples": 872, "metric": "accuracy", "data": "cd3ac2f308f14c2c"}],
        },
        "tests": list(tests),
        **fields,
    }  # fmt: skip


def large(checks: int = 500, seed: int = 0) -> dict[str, Any]:
    """A run of many checks, a fifth of which do not hold, each with all the evidence that there can be."""
    rng = random.Random(seed)
    models = ["minilm-sst2", "distilbert-candidate-with-a-long-name-2026-11", "release/llama-260k"]
    tests = []
    for number in range(checks):
        held = rng.random() > 0.2
        unclear = not held and rng.random() < 0.3
        baseline = 0.9037
        drop = rng.uniform(-0.004, 0.0099) if held else rng.uniform(0.011, 0.12)
        kind = number % 3
        known = {
            "check": ("assert_metric_retained", "bertology_baseline.check", "assert_heads_prunable")[kind],
            "passed": held, "inconclusive": unclear, "observed": drop, "model": rng.choice(models),
            "baseline": baseline, "score": baseline - drop, "heads": [f"L{i % 6}H{i % 12}" for i in range(22)],
            "p_value": rng.random() if held else rng.random() / 100, "evidence": _evidence(rng, kind),
            "details": {
                "bound": "95 %, paired bootstrap (2000 resamples)",
                "power": [["smallest drop that 872 examples can show", "0.013"], ["power at the tolerance", "0.82"]],
                "baseline": {"name": "accuracy", "file": "baselines/test_gate.json", "compared_with": "stored"},
            },
        }  # fmt: skip
        message = "" if held else _page(known)
        name = f"suites/release/test_{('retained', 'baselines', 'pruning')[kind]}.py::test_gate[{number}]"
        tests.append(tested(name, verdict(**known, message=message)))
    tests[7] = tested(tests[7]["test"], outcome="error", error="OSError: the folder ./candidate holds no weights")
    tests[8] = tested(tests[8]["test"], outcome="skipped", error="no CUDA device")
    return run(*tests)


def _evidence(rng: random.Random, kind: int) -> dict[str, Any]:
    worst = [
        {
            "example": rng.randrange(872),
            "text": HOSTILE if number == 1 else "the film is a hard-won , deeply felt and very funny portrait",
            "label": "positive", "before": "positive", "after": "negative", "margin": rng.random() * 4,
        }
        for number in range(5)
    ]  # fmt: skip
    found: dict[str, Any] = {"changed": {"lost": 17, "gained": 11, "worst": worst}}
    if kind == 1:
        heads = [f"L{layer}H{head}" for layer in range(12) for head in range(12)]
        before = [rng.random() ** 3 for _ in heads]
        after = [value + rng.gauss(0, 0.06) for value in before]
        found["heads"] = {"heads": heads, "baseline": before, "candidate": [max(0.0, value) for value in after]}
    return found


def _page(known: dict[str, Any]) -> str:
    return (
        f"accuracy is not retained with 22 of 72 heads masked (31%, the least important by gradient)\n\n"
        f"  model     {known['model']} (6 layers of 12 heads, float32 on cpu)\n"
        f"  task      sst2 (872 examples)\n"
        f"  baseline  0.9037 (788 of 872 right)\n"
        f"  masked    {known['score']:.4f}\n"
        f"  drop      {known['observed']:.4f}; required: at most 0.01\n"
        f"  heads     {' '.join(known['heads'])}\n\n"
        f"  17 became wrong and 11 right; the worst of them:\n"
        f"    #12 'the film is a hard-won , deeply felt portrait of a town': positive, now negative (margin 2.31)\n"
        f"    #40 '<script>alert(1)</script>': positive, now negative (margin 1.02)"
    )
