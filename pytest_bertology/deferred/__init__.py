"""Calls that are answered from a folder: nothing is loaded for a result that is known.

`memory` holds the answers, `calls` gives and records them, `describing` says what a call depends on, `sources` what a
checkpoint is by its files, `handles` stand in for models and results until somebody looks at them. Nothing in here
imports torch.
"""
