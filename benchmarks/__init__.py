"""Benchmarks: what is fast, measured as ratios in one run; no test depends on a clock."""
