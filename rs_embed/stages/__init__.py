"""What one job of each rule does: a function of (run, part or chunk) and the store, runnable by hand."""
