"""Which latent space will a diffusion model learn well, and why."""

__version__ = "0.1.0"
