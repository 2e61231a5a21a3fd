"""Static batches and image encodes: the engine of Decode-v0 and Kernels-v0."""
