"""Steps per second, beside CartPole's in the same run."""
