"""The policies that come with the project, and how they were trained: for `experiments.pretrained`."""
