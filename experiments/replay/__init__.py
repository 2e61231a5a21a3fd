"""Runs of real servers, replayed."""
