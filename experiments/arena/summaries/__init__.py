"""From the frame to what summary.json holds, a module for each kind of comparison."""
