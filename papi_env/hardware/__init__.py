"""Hardware: stacks, units, links and systems, and what a kernel costs on them."""
