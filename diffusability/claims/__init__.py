"""What the papers claim, as data, and what a study says of it."""
