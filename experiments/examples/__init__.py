"""Examples to start from; each runs by itself: `python -m experiments.examples.NAME`."""
