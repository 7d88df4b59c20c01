"""What a study can measure: groups of metrics of latents and of generated images."""
