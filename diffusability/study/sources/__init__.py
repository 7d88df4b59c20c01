"""What comes from outside of a study: images, arrays and code, named by their content."""
