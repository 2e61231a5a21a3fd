"""A CUDA GPU that runs and times FC kernels through torch, which is imported only once one is asked for."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

from experiments.gpus.profile import LaunchShape
from papi_env.errors import ConfigurationError
from papi_env.hardware.measured import COLUMNS

if TYPE_CHECKING:
    import torch

# cudaEventElapsedTime in NVIDIA's CUDA runtime documentation: around half a microsecond.
EVENT_RESOLUTION_S = 0.5e-6
# Where torch does not say: more than any GPU has today.
_UNKNOWN_CACHE_BYTES = 128 * 2**20


def find_cuda(device: str) -> CudaRunner:
    """The GPU that `--device` names.

    Raises:
        ConfigurationError: it names none, or there is none.
    """
    # Digits of other scripts are digits to \d.
    named = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", device)
    if named is None:
        raise ConfigurationError(f"--device is {device!r}, expected cuda, or cuda:N for one of several GPUs")
    if importlib.util.find_spec("torch") is None:
        raise _no_gpu("torch is not installed: pip install torch")
    import torch

    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
        raise _no_gpu(f"torch {torch.__version__}, built for {built}")
    index = torch.cuda.current_device() if named[1] is None else int(named[1])
    if index >= torch.cuda.device_count():
        raise ConfigurationError(
            f"--device is {device!r}, expected one of the {torch.cuda.device_count()} GPUs that torch finds, "
            f"cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    return CudaRunner(index)


def _no_gpu(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"profile_gpu: no CUDA GPU found ({why}); run it on a machine with one, or bring a file in this format: "
        f"a header {','.join(COLUMNS)}, then a line for each FC kernel of one GPU and number of input vectors, "
        "as papi_env.hardware.measured describes it"
    )


class CudaRunner:
    """One GPU, by its index; a `Runner`."""

    resolution_s = EVENT_RESOLUTION_S

    def __init__(self, index: int) -> None:
        import torch

        torch.cuda.set_device(index)
        self._torch = torch
        self._device = torch.device("cuda", index)
        properties = torch.cuda.get_device_properties(index)
        self.cache_bytes = int(getattr(properties, "L2_cache_size", 0)) or _UNKNOWN_CACHE_BYTES
        self._name = str(properties.name)
        self._weights: list[torch.Tensor] = []
        self._round: torch.cuda.CUDAGraph | None = None

    def provenance(self) -> dict[str, str]:
        """The GPU and the versions, for the file's comments."""
        version = self._torch.version
        built = f"CUDA {version.cuda}" if version.cuda else f"HIP {version.hip}"
        return {"gpu": self._name, "torch": f"{self._torch.__version__}, {built}"}

    def load(self, shape: LaunchShape, copies: int) -> None:
        """Copies of random weights: multiplying zeros takes less power, and so runs faster.

        Raises:
            ConfigurationError: they do not fit the GPU's memory.
        """
        # What was there before goes first.
        self._round, self._weights = None, []
        self._torch.cuda.empty_cache()
        outputs, inputs = shape.aligned
        try:
            # Outputs of about 1: nothing overflows FP16.
            self._weights = [self._random(outputs, inputs).mul_(inputs**-0.5) for _ in range(copies)]
        except self._torch.cuda.OutOfMemoryError:
            raise ConfigurationError(
                f"{copies} copies of {outputs} x {inputs} weights do not fit the memory of {self._name}; "
                "expected a smaller model, more --tensor-parallel, or an idle GPU"
            ) from None

    def prepare(self, rows: int) -> None:
        """Record a round as a graph: the host then launches once a round, and is never what is timed.

        Raises:
            ConfigurationError: inputs and outputs do not fit the GPU's memory.
        """
        torch, weights = self._torch, self._weights
        self._round = None
        try:
            inputs = self._random(rows, weights[0].shape[1])
            # Libraries set themselves up outside of the graph, on a stream of its kind.
            side = torch.cuda.Stream(self._device)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for weight in weights[:2]:
                    torch.nn.functional.linear(inputs, weight)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for weight in weights:
                    # The output is let go at once, and the next launch takes its place.
                    torch.nn.functional.linear(inputs, weight)
        except torch.cuda.OutOfMemoryError:
            raise ConfigurationError(
                f"inputs and outputs of {rows} rows do not fit the memory of {self._name} beside the weights; "
                "expected fewer --rows, or an idle GPU"
            ) from None
        # The graph reads the inputs where they are, so they stay as long as it does.
        self._inputs, self._round = inputs, graph

    def span_s(self, rounds: int) -> float:
        """Seconds between two events of the GPU's own clock."""
        assert self._round is not None
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        # A round that isn't timed keeps the GPU busy while the host hands over the first that is.
        self._round.replay()
        begin.record()
        for _ in range(rounds):
            self._round.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    def _random(self, *sizes: int) -> torch.Tensor:
        return self._torch.randn(*sizes, dtype=self._torch.float16, device=self._device)
