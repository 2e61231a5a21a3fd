"""Policies that compete to dispatch kernels: rules, oracles, searches and learned ones."""
