"""What every part of a study is made of: models, names, registries, fingerprints, commands."""
