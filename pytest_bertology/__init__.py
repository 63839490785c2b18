"""Head-pruning, importance and behaviour checks for transformer models, as ordinary pytest suites."""
