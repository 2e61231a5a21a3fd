"""Rules of continuous batching, compiled: one telling of each, for a step at a time and for whole episodes inside."""
