"""The names that users write: kinds, dtypes, metrics, methods; light: options are checked before torch loads."""

from __future__ import annotations

KINDS = (
    "sequence-classification",
    "token-classification",
    "causal-lm",
    "masked-lm",
    "seq2seq-lm",
    "encoder",
    "image-classification",
    "audio-classification",
)
DTYPES = ("float64", "float32", "bfloat16", "float16")
METRICS = ("accuracy", "f1", "f1_macro", "f1_micro", "matthews", "pearson", "spearman", "perplexity", "loss")
IMPORTANCE_METHODS = (
    "gradient",
    "gradient_per_token",
    "bertology",
    "taylor",
    "integrated_gradients",
    "ablation",
    "confidence",
    "random",
)
OWN_METHOD = "a method of your own (hook pytest_bertology_importance_method)"
"""What stands beside them wherever one is named."""
ABLATIONS = ("zero", "mean", "resample")
"""What takes the place of an ablated head's output."""
CORRECTIONS = ("holm", "bonferroni", "fdr")
"""Of p-values, for their number."""
LAYER_STRATEGIES = ("top", "bottom", "alternate_even", "alternate_odd", "symmetric", "contribution")
EMBEDDED = "embedded"
"""The model and task that need no hub."""
