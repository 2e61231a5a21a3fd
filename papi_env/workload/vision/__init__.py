"""RepMLPNet: its sizes and kernels, the network in torch, its weights, and Locality Injection."""
