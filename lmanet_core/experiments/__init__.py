"""Weights on sets of labelled clips, the paper's experiments, and what a frame costs."""
