"""From a summary to what is printed, a module for each kind of comparison."""
