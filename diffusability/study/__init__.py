"""The study as typed data: what can be named, what a file says, what follows from it. No torch.

The folders below, each using only those before it: `core` (models, names, registries,
fingerprints), `sources` (what comes from outside, named by its content), `entries` (datasets,
encoders, tokenizers, backbones), `metrics`, then `study.Study` itself; from it `reading` (a file
becomes a study), `planning` (a study becomes artifacts, tables and figures) and `preflight`
(whether it can run here, and what it takes).
"""
