"""Learning curves of training runs: what `experiments.curves` reads, plays and draws."""
