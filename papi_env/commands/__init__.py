"""The command of the installed package, `papi-env`: what there is, what one thing is, and an episode to look at."""
