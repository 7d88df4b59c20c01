"""From a study file to the typed study: YAML, bases and defaults, checks, pages of options."""
