"""What a study file can name: datasets, encoders, tokenizers, backbones, and their options."""
