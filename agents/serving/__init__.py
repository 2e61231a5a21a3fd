"""Policies of continuous batching."""
