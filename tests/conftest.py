"""Property tests: the same examples on every run, unless a search is asked for.

`HYPOTHESIS_PROFILE=search python -m pytest` draws new examples, ten times as many.
"""

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
