"""Measured GPUs: files of kernel and all-reduce times, and the hardware model against them."""
