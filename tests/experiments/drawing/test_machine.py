"""Every machine is drawn, with all of its stacks and nodes."""

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from experiments.draw import main
from experiments.drawing import machine
from papi_env.hardware.system import SYSTEMS


@pytest.mark.parametrize("name", ["papi", "a100-attacc", "attacc-only", "papi-1gpu", "neupims-like"])
def test_boxes_are_the_gpus_and_stacks(name, monkeypatch):
    system, drawn = SYSTEMS[name], []

    def kept(figure):
        assert isinstance(figure, Figure)
        drawn.extend(figure.axes[0].findobj(FancyBboxPatch))
        return b""

    monkeypatch.setattr(machine, "png", kept)
    machine.figure(system)
    gpus = 0 if system.pu is None else system.pu.count
    beside = system.fc_pim.stacks if system.fc_pim is not None else gpus * system.pu.stacks
    assert len(drawn) == gpus + beside + (0 if system.attn_pim is None else system.attn_pim.stacks)


def test_pictures_are_written_under_the_names_of_their_machines(tmp_path, capsys):
    names = ["papi", "aim-like"]
    assert main([*names, "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {f"machine-{name}.png" for name in names}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert capsys.readouterr().out.count("wrote ") == len(names)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_machine_can_be_drawn(name, monkeypatch):
    monkeypatch.setattr(machine, "png", lambda figure: b"drawn")
    assert machine.figure(SYSTEMS[name]) == b"drawn"


def test_an_unknown_machine_is_answered_with_the_nearest(tmp_path, capsys):
    assert main(["papy", "--out", str(tmp_path)]) == 2
    assert "Did you mean 'papi'" in capsys.readouterr().err
