"""Fixtures that tests of several commands share."""

import json

import pytest


@pytest.fixture(scope="session", autouse=True)
def nothing_takes_long():
    """What commands say of work that takes seconds depends on the machine: they say nothing of it here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.common.progress.SILENT_S", 1e6)
        yield


@pytest.fixture(scope="module")
def threads_as_before():
    """Trainings set the threads of torch, which later tests should not notice."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def serving_file(tmp_path_factory):
    """Writes a small serving scenario, with other values for some of its fields, and returns its path."""
    usual = {
        "horizon_s": 2.0,
        "arrivals": {"process": "poisson", "rate_per_s": 30.0},
        "lengths": {"input": 300, "output": 8},
        "objectives": {"ttft_s": 0.5, "tpot_s": 0.06},
        "max_running": 16,
    }

    def table(values):
        return "{ " + ", ".join(f"{key} = {value(item)}" for key, item in values.items()) + " }"

    def value(item):
        return table(item) if isinstance(item, dict) else json.dumps(item)

    def write(name="tiny", system='"papi"', **changes):
        """`system` as TOML has it; a field that is None is left out."""
        fields = {key: item for key, item in (usual | changes).items() if item is not None}
        lines = [f"system = {system}", 'model = "llama-65b"', "[serving]"]
        lines += [f"{key} = {value(item)}" for key, item in fields.items()]
        path = tmp_path_factory.mktemp("scenario") / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture(scope="session")
def classes_file(serving_file):
    """A small scenario of chats and of lone requests, more of both than can be served in time."""
    chat = {
        "share": 2.0,
        "weight": 2.0,
        "patience_s": [0.2, 0.8],
        "conversation": {"turns": 2.0, "most_turns": 4, "think_s": 0.1},
    }
    batch = {"objectives": {"ttft_s": 2.0, "tpot_s": 0.1}}
    return serving_file(
        name="chats",
        horizon_s=1.0,
        arrivals={"process": "poisson", "rate_per_s": 40.0},
        lengths={"input": 900, "output": 20},
        objectives={"ttft_s": 0.3, "tpot_s": 0.03},
        kv_tokens=16000,
        service={
            "classes": {"chat": chat, "batch": batch},
            "charge": 0.25,
            "max_waiting": 32,
            "max_open": 32,
        },
    )
