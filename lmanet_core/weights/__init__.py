"""Weights on disk and in memory: our own format, published files, those that ship, and a network made ready to run."""
