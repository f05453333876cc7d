"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two views of each image, and the loss that finds them among others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

from builder.scan.pool import OK, Pool, PoolImage
from students.data.streams import generator
from students.train.errors import TrainError
from teachers.images import ImageError, decode_rgb

COLUMNS = ("sha256", "uri", "offset", "bytes", "mtime_ns")


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The normalised temperature-scaled cross-entropy loss (equation 1), the mean over all 2B views, and the share of
    views whose partner is the most similar of the 2B - 1 others.

    first, second: (B, D), the projections of the two views of each image, of any length. Computed in float32.
    """
    views = functional.normalize(torch.cat([first, second]).float(), dim=1)
    similarity = views @ views.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return functional.cross_entropy(similarity, partner), (similarity.argmax(1) == partner).float().mean()


class Projection(nn.Sequential):
    """The head that only pre-training has (section 4.2): (B, channels) to (B, width), one hidden layer. Its norm is
    batch norm beside a backbone with batch norm, as in the paper's code, else layer norm."""

    def __init__(self, channels: int, width: int, *, batch_norm: bool) -> None:
        norm = nn.BatchNorm1d(channels) if batch_norm else nn.LayerNorm(channels)
        super().__init__(nn.Linear(channels, channels), norm, nn.ReLU(), nn.Linear(channels, width))


@dataclass(frozen=True)
class Views:
    """What makes a random view of an image (appendix A), by torchvision's transforms: a crop of at least `min_scale` of
    its area made `size` x `size` pixels, a mirror image (`flip`), colours of strength `colour` (and grey), `blur`."""

    size: int
    min_scale: float
    flip: bool
    colour: float
    blur: bool

    def __call__(self, pixels: np.ndarray, seed: int) -> Tensor:
        """Two views, uint8 (2, 3, size, size), of an image, uint8 (H, W, 3); equal seeds give equal views."""
        image = Image.fromarray(pixels)  # half the time of a tensor
        with torch.random.fork_rng(devices=[]):  # the transforms draw from what the network draws from, too
            torch.manual_seed(seed)
            views = np.stack([self._transform(image), self._transform(image)])
        return torch.from_numpy(np.ascontiguousarray(views.transpose(0, 3, 1, 2)))

    @cached_property
    def _transform(self) -> v2.Compose:
        steps: list[nn.Module] = [v2.RandomResizedCrop(self.size, scale=(self.min_scale, 1.0), antialias=True)]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.colour:
            jitter = v2.ColorJitter(*[0.8 * self.colour] * 3, hue=0.2 * self.colour)
            steps += [v2.RandomApply([jitter], 0.8), v2.RandomGrayscale(0.2)]
        if self.blur:
            steps.append(v2.RandomApply([_Blur()], 0.5))
        return v2.Compose(steps)


class _Blur(nn.Module):
    """Gaussian blur of sigma 0.1 to 2 pixels, by Pillow: torchvision's takes twelve times as long."""

    def forward(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(0.1, 2.0))))


class PoolImages(Sequence[np.ndarray]):
    """The readable images of a pool in the order of their SHA-256, so that it does not matter how the pool was scanned:
    upright RGB pixels, uint8 (H, W, 3). Only where each lies is held in memory. Reading raises BuildError for an image
    that is not what was scanned, TrainError for one that cannot be decoded."""

    def __init__(self, pool: Pool) -> None:
        tables = pool.tables(("state", *COLUMNS))
        wanted = [table.filter(pa.compute.equal(table["state"], OK)).select(COLUMNS) for table in tables]
        self._rows = pa.concat_tables(wanted).sort_by("sha256").combine_chunks()
        if not len(self):
            raise TrainError(f"pool {pool.source} has no images that can be read: there is nothing to train on")

    @property
    def sha256(self) -> list[str]:
        """Of each image, hex."""
        return [str(sha256) for sha256 in self._rows["sha256"].to_pylist()]

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        row = self._rows.slice(index, 1).to_pylist()[0]
        image = PoolImage(key="", name="", **row)
        try:
            return decode_rgb(image.read(), image.pixels)
        except ImageError as error:
            raise TrainError(f"image {image.uri} cannot be used: {error}: remove it from the pool") from None


class ViewBatches:
    """Batches of two views of `batch` images: `batches[step]`, uint8 (2, batch, 3, size, size), a pure function of
    (images, seed, step). Every epoch has a new order; no batch has an image twice, so the rest of an epoch that fills
    no batch is left out. Raises TrainError for fewer images than a batch has."""

    def __init__(self, images: Sequence[np.ndarray], views: Views, *, batch: int, seed: int) -> None:
        if len(images) < batch:
            raise TrainError(f"batch {batch} is more than the pool's {len(images)} images: make it smaller")
        self._images, self._views, self._batch, self._seed = images, views, batch, seed
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __getitem__(self, step: int) -> Tensor:
        epoch, place = divmod(step, len(self._images) // self._batch)
        if self._order[0] != epoch:
            self._order = epoch, generator(self._seed, 0, 0, epoch).permutation(len(self._images))
        chosen = self._order[1][place * self._batch : (place + 1) * self._batch].tolist()
        seeds = generator(self._seed, 0, 1, step).integers(2**63, size=len(chosen)).tolist()
        pairs = [self._views(self._images[index], seed) for index, seed in zip(chosen, seeds, strict=True)]
        return torch.stack(pairs, dim=1)
