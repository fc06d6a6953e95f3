"""Looking after a work folder: what is there (status), whether it is whole (verify), what nothing needs (prune)."""
