"""From a summary to a picture, a module for each kind of comparison."""
