"""Policies of static batches and image encodes."""
