"""Policies that were learned: checkpoints, networks in NumPy, trees, and what the project ships."""
