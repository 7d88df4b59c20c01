"""Fisher information along a diffusion: exact oracles, estimators and toy experiments."""
