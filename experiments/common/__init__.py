"""What every command shares: run folders and jobs, the command line, statistics, the look of pictures."""
