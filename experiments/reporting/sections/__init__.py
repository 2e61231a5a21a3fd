"""What a page shows of each command's runs, a module for each."""
