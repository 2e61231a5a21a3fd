"""Policies as decision trees: states collected, trees grown, rules in words."""
