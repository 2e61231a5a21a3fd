"""What the file in the run folder of `experiments.presets` is called."""

PRESETS = "presets.json"
