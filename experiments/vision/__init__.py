"""RepMLPNet before and after Locality Injection."""
