"""Estimates over the frame, by the scheme of their bootstrap: `seeds` alone, or training `runs` and instances."""
