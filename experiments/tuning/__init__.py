"""Tuning the parameters of rules: for `experiments.tune`."""
