"""Workloads: models as kernels, request lengths, traces, and the instances drawn from them."""
