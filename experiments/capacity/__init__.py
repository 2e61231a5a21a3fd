"""What the serving presets are relative to: for `experiments.presets`."""
