"""The engines: state as arrays, one compiled advance, metrics. They know neither gymnasium nor torch.

A room for each family of problems, with the same module names in both; what they share stands beside them.
"""
