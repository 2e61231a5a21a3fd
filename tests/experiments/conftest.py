"""Fixtures that tests of several commands share."""

import pytest


@pytest.fixture(scope="module")
def threads_as_before():
    """Trainings set the threads of torch, which later tests should not notice."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
