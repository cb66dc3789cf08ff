"""How good weights are: on sets of labelled clips (`clip_sets`, `experiments`)."""
