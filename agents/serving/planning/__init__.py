"""Planners of Serving-v1: rules that try what they might do on copies of the machine before they do it."""
