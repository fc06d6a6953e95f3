"""The plan of a run: a pure function of the request. Standard library only."""
