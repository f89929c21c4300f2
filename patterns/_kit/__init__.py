"""Not patterns: the `patterns` command, the catalogue, the copier, the garden."""
