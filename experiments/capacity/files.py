"""What the files in the run folder of `experiments.presets` are called."""

PRESETS = "presets.json"
TIME_SCALES = "time_scales.json"
