"""The problems as gymnasium environments, one file each, over one engine."""
