"""A strategy, a dataset source and a backbone source for bench."""
