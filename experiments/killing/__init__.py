"""Commands killed at random moments, and whether what they come to is the same: for `experiments.kill`."""
