"""Published iterations: the sum of parts, each from where it is measured, and files that lack what is needed."""

import pytest

from experiments import validate
from experiments.gpus.published import CONTEXT, PUBLISHED, validate_published
from papi_env.errors import DataError
from papi_env.hardware.gpu_kernels import KERNEL_CONSTANTS, fc_s
from tests.experiments.commands import called

KERNELS = "gpu,tp,n,heads,kv_heads,hidden,feed_forward,activation_us,norm1_us,norm2_us,rope_us,add_us"
ALLREDUCE = "gpu,gpus,bytes,min_us,median_us"


@pytest.fixture
def files(tmp_path):
    kernels, allreduce = tmp_path / "kernels.csv", tmp_path / "allreduce.csv"
    lines = [
        f"a100,{tp},{n},{hidden // 128},8,{hidden},28672,10,4,4,6,1"
        for tp in (1, 4)
        for hidden in (4096, 8192)
        for n in (1, 4096)
    ]
    # Other cards stay out.
    kernels.write_text("\n".join([KERNELS, *lines, "h100,4,1,64,8,8192,28672,99,99,99,99,99"]) + "\n")
    allreduce.write_text(
        "\n".join([ALLREDUCE, "a100,4,1,20,30", "a100,4,1000000000,20,30", "h100,4,1,9,9"]) + "\n"
    )
    return kernels, allreduce


def test_an_iteration_is_the_sum_of_its_parts(files):
    result = validate_published(*files)
    assert result["rows"] == len(PUBLISHED) == 9
    for row in result["iterations"]:
        assert row["simulated"] == pytest.approx(sum(row["parts"].values()), rel=1e-3)
        assert row["error"] == row["simulated"] / row["milliseconds"] - 1
    assert result["max"] == max(abs(row["error"]) for row in result["iterations"])
    seven, *_, prompt = result["iterations"]
    card = KERNEL_CONSTANTS["a100"]
    fc = sum(
        float(fc_s(card, 1, *shape)) for shape in ((12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008))
    )
    # 2 x 128 elements of 32 heads in 32 layers, FP16, at 0.67 of 2039 GB/s; 26 us of small kernels a layer.
    attention = CONTEXT * 2 * 128 * 32 * 32 * 2 / (2039e9 * 0.67)
    assert seven["parts"] == pytest.approx(
        {
            "fc": 32e3 * fc,
            "attention": 1e3 * attention,
            "all_reduce": 0.0,
            "element_wise": 32e-3 * 26,
            "lm_head": 1e3 * float(fc_s(card, 1, 32000, 4096)),
        },
        rel=1e-3,
    )
    assert prompt["parts"]["all_reduce"] == pytest.approx(80 * 2 * 20e-3)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (("kernels", "a100,4", "h100,4"), "found no a100 lines of 4 GPUs"),
        (("allreduce", "a100", "h100"), "found no a100 lines of 4 GPUs"),
        (("kernels", "rope_us", "rope"), "rope_us"),
    ],
)
def test_what_a_file_lacks_is_named(files, broken, words):
    which, old, new = broken
    path = files[which == "allreduce"]
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=words):
        validate_published(*files)


def test_the_command_wants_both_files_and_nothing_else(files):
    kernels, allreduce = map(str, files)
    status, out, _ = called(validate.main, "--published", "--gpu-kernels", kernels, "--allreduce", allreduce)
    assert status == 0
    assert '"iterations"' in out
    for wrong in (
        ["--gpu-kernels", kernels],
        ["--gpu-kernels", kernels, "--allreduce", allreduce, "--refit"],
    ):
        status, _, err = called(validate.main, "--published", *wrong)
        assert status == 2
        assert "--published needs --gpu-kernels and --allreduce" in err
