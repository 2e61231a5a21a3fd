"""What the registered scenarios with images encode, and beside which decoding, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from papi_env.workload.images import Images
from papi_env.workload.requests import Lengths
from papi_env.workload.vision.network import RepMLPNet, get_repmlpnet, nearest_divisor


@dataclass(frozen=True)
class ImagePreset:
    """A scenario with images, on a registered system; `model` and `lengths` are None for a stream of encodes.

    `batch_size` and `speculation` are those of `Workload`.
    """

    description: str
    system: str
    images: Images
    model: str | None = None
    lengths: Lengths | None = None
    batch_size: int = 64
    speculation: int = 2


def with_shares(network: str, times: int) -> RepMLPNet:
    """A registered network with so many times the share-sets: as many MACs, more weights, fewer rows for each.

    Where that many do not divide the channels, the nearest that do: three times in the last stage of RepMLPNet-B256.
    """
    base = get_repmlpnet(network)
    sets = tuple(
        nearest_divisor(channels, times * sets)
        for channels, sets in zip(base.channels, base.share_sets, strict=True)
    )
    return get_repmlpnet({**base.model_dump(), "name": f"{network}-shares-x{times}", "share_sets": sets})


# chosen, for both streams: one image at a time half of the time, as of a camera, and up to 4 where several cameras
# send at once (range 1-128; the more images, the more rows and the less FC-PIM can gain), and 16 encodes, so that an
# episode meets every size.
_CAMERAS = (1, 1, 2, 4)

IMAGE_PRESETS: Mapping[str, ImagePreset] = {
    "vision-language": ImagePreset(
        description="RepMLPNet-B256 encodes an image of each request, then LLaMA-65B answers in static batches",
        system="papi",
        images=Images(network=get_repmlpnet("repmlpnet-b256"), per_request=1),
        model="llama-65b",
        lengths=Lengths(table="dolly-general-qa"),
    ),
    "vision-edge": ImagePreset(
        description="RepMLPNet-B256 encodes 1 to 4 images at a time on an edge GPU whose memory is an FC-PIM stack",
        system="papi-edge",
        images=Images(network=get_repmlpnet("repmlpnet-b256"), batch_sizes=_CAMERAS, encodes=16),
    ),
    # chosen: four times the share-sets, in the last stage three times (range 1 to channels; the released networks have
    # 1 to 256 and differ in them as in width and depth).
    "vision-edge-shares": ImagePreset(
        description="The same with four times the share-sets, so that FC3 has more weights and fewer rows",
        system="papi-edge",
        images=Images(network=with_shares("repmlpnet-b256", 4), batch_sizes=_CAMERAS, encodes=16),
    ),
    # chosen: answers of 8 tokens, a label or a count (range 1-64: the longer, the less the encode matters), questions
    # of 32, 8 requests at once (range 1-16: more, and the PUs decode about as well), and 2 images a request, which
    # leaves batches of 64 within an encode's 128.
    "vision-cameras": ImagePreset(
        description="RepMLPNet-B256 encodes 2 images of each request, then OPT-30B answers in 8 tokens",
        system="papi",
        images=Images(network=get_repmlpnet("repmlpnet-b256"), per_request=2),
        model="opt-30b",
        lengths=Lengths(input=32, output=8),
        batch_size=8,
        speculation=1,
    ),
}
