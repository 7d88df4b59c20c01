"""`diffusability score`: measure latent spaces of one's own, without training a diffusion model."""
