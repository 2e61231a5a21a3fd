"""The pinned training, validation and test instances."""
