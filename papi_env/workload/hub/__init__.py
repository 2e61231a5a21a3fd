"""Models as hubs describe them."""
