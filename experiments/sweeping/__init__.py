"""Searching designs over fields of scenarios: for `experiments.sweep`."""
