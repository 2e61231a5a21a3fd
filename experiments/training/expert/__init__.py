"""Expert iteration on the network that sees requests: a planner looks ahead, the network learns what it found."""
