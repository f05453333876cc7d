"""Teachers made of teachers: ensembles, and views of an image."""
