"""Training: algorithms, imitation, rewards, exact resume, learning curves, tuned rules."""
