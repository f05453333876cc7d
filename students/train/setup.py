"""What a training recipe leads to before its first step: labels, versions, the network, and what the run is."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import torch
from torch import nn

from builder.hub.remote import open_version
from builder.kinds import kind_of
from builder.store.files import sha256_file
from builder.store.labels import read_label
from builder.store.shards import Sample, ShardRecord
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.read import read_section
from builder.truth.records import Truth, subset, truth_digest
from students.data.loader import JointBatches
from students.tasks.base import Task
from students.tasks.choose import check_labels, task_of, usual_arch
from students.train.errors import TrainError
from students.train.losses import CLIP
from students.train.recipe import TrainRecipe
from teachers.errors import warn
from teachers.networks.backbones import DEFAULT
from teachers.networks.build import build_network
from teachers.networks.checkpoints import load_checkpoint
from teachers.networks.config import NetworkConfig, as_json
from teachers.networks.meta import read_meta
from teachers.networks.weights import pretrained_on, weights_file

ELSEWHERE = (
    "labelled",
    "pseudo",
    "doubly_robust",
    "network",
    "init",
    "rounds",
    "workers",
    "save_every",
    "val",
    "track",
    "clip",
)
"""Keys of a recipe that have no say in the weights, or are described otherwise."""
LATER = ("ema", "normalise", "alpha_ramp")
"""Keys that came later: left out where they have no effect, so that an older run is found to be the same."""


@dataclass(frozen=True)
class Plan:
    """claimed: versions that say what teachers claim of the labelled images. start: the run whose weights training
    begins with. description: JSON-ready, all that decides the weights, without paths of this machine."""

    truth: Truth
    versions: list[Version]
    claimed: list[Version]
    task: Task
    config: NetworkConfig
    start: Path | None
    description: dict[str, Any]

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """SHA-256 of every image the weights come to depend on: labelled, pseudo-labelled in versions that are here,
        and those of the run it starts from."""
        with ThreadPoolExecutor() as threads:
            seen = set(threads.map(sha256_file, [image.path for image in self.truth.images]))
        for version in self.versions:
            if not version.is_remote:
                seen.update(*(_images_in(version, *shard) for shard in version.shards()))
        seen.update(read_meta(self.start).trained_on if self.start else pretrained_on(self.config.pretrained))
        return frozenset(seen)


def make_plan(recipe: TrainRecipe, store: Store) -> Plan:
    """Read the labels and open the versions of a recipe. Raises TrainError; TruthError, BuildError or TeacherError for
    labels, versions or a run that cannot be used."""
    if recipe.rounds:
        raise TrainError("a recipe with rounds is several trainings: run it with students.rounds.loop.run_rounds")
    labelled = recipe.labelled
    outlines = recipe.network.arch == "maskrcnn"
    truth = read_section(labelled.options, "labelled", outlines)
    digest = labels_digest(truth, labelled.path)
    if labelled.limit:
        truth = subset(truth, labelled.limit, recipe.seed)
    if recipe.network.classes:
        raise TrainError("network.classes are those of the labels: remove them from the recipe")
    versions, claimed = ([open_version(ref, store) for ref in refs] for refs in (recipe.pseudo, recipe.doubly_robust))
    for version in (*versions, *claimed):
        if not version.is_remote:
            version.check_ahead()  # while the network is built
    start = Path(recipe.init.partition(":")[2]) if recipe.init else None
    arch = recipe.network.arch or usual_arch(truth.kind)
    task = task_of(arch, recipe.soft)
    check_labels(truth.kind, task, labelled.path)
    _check_taught(truth, labelled.path)
    if claimed and not task.relearns:
        raise TrainError(
            f"arch {arch} samples what it learns by the labels it is given, so that other labels would take a second "
            "forward pass: leave out doubly_robust, or take another arch"
        )
    for version in versions:
        if untaught := _untaught(truth, version):
            warn(untaught)
    config = replace(recipe.network, arch=arch, classes=truth.classes)
    network = as_json(config)
    if config.pretrained not in (None, DEFAULT):
        network["pretrained"] = sha256_file(weights_file(str(config.pretrained)))
    description = _options(recipe, arch) | {
        "labelled": {"file": labelled.path.name, "sha256": digest, "limit": labelled.limit},
        "pseudo": [_described(version) for version in versions],
        "init": read_meta(start).weights.sha256 if start else None,
        "network": network,
    }
    if recipe.pseudo and (clip := recipe.clip or task.clip) != CLIP:
        description["clip"] = clip
    if claimed:
        description["doubly_robust"] = [_described(version) for version in claimed]
    return Plan(truth, versions, claimed, task, config, start, orjson.loads(orjson.dumps(description)))


def _check_taught(truth: Truth, path: Path) -> None:
    """Raises TrainError for labels that teach nothing: no object at all, or none that counts."""
    if any(
        image.label is not None or image.mask is not None or (~(image.crowd | image.difficult)).any()
        for image in truth.images
    ):
        return
    objects = sum(len(image.labels) for image in truth.images)
    what = f"{objects} objects, all crowds or difficult ones" if objects else "not one object"
    raise TrainError(f"{path} has {len(truth.images)} images and {what}: there is nothing to learn; correct the labels")


def _untaught(truth: Truth, version: Version) -> str:
    """What a version without some of the labelled classes does to them; "" where it has all that are labelled, and for
    maps, where what is not said is void."""
    if kind_of(version.manifest.kind).pixels:
        return ""
    missing = [name for name in truth.marked_classes if name not in version.manifest.classes]
    if not missing:
        return ""
    names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return (
        f"{version.ref} was labelled without {names}, which the human labels have: on its images a student learns to "
        "take them for something else, or for background; label with a teacher that knows them"
    )


def labels_digest(truth: Truth, path: Path) -> str:
    """SHA-256 of labels read from `path`: of the file, or, of many files, of what they say of which names."""
    if path.suffix == ".json":
        return sha256_file(path)
    return truth_digest(truth, {image.name: image.name for image in truth.images})


def starting_network(recipe: TrainRecipe, plan: Plan) -> nn.Module:
    """The network as training starts, from random, pre-trained or another run's weights, its channels last in memory: a
    step of EfficientNet then takes two thirds of the time. Raises TrainError for a run of other classes or another
    network."""
    torch.manual_seed(recipe.seed)
    network = build_network(plan.config, pretrained=plan.start is None).to(memory_format=torch.channels_last)
    if plan.start is None:
        return network
    trained, config, _ = load_checkpoint(plan.start)
    if config.classes != plan.config.classes:
        raise TrainError(f"{plan.start} knows other classes than {recipe.labelled.path}: start from another run")
    try:
        network.load_state_dict(trained.state_dict())
    except RuntimeError:
        raise TrainError(f"{plan.start} has another network than the recipe: copy its network section") from None
    return network


def about(plan: Plan, batches: JointBatches, step: int) -> dict[str, Any]:
    """What `meta.json` says of a run after so many steps: its description, and the images its weights depend on. Of
    versions on the Hub these are all images in the shards that steps before `step` have touched."""
    shards = (_images_in(version, record) for version, record in batches.shards_seen(step))
    return {"recipe": plan.description, "trained_on": sorted(plan.trained_on.union(*shards))}


def _options(recipe: TrainRecipe, arch: str) -> dict[str, Any]:
    """What a recipe's plain keys say of the weights."""
    without = {*ELSEWHERE, *(name for name in LATER if getattr(recipe, name) == _default(name))}
    if arch != "linear":
        without.add("soft")
    return recipe.model_dump(mode="json", exclude=without)


def _default(name: str) -> Any:
    return TrainRecipe.model_fields[name].default


def _described(version: Version) -> dict[str, Any]:
    manifest = version.manifest
    described = {"name": manifest.name, "version": manifest.version, "id": manifest.id}
    return described | {"streamed": True} if version.is_remote else described  # in another order


_images: dict[Path, frozenset[str]] = {}
"""Of each shard, by where it lies: every save asks again."""


def _images_in(version: Version, record: ShardRecord, samples: Iterable[Sample] | None = None) -> frozenset[str]:
    """SHA-256 of the images of a version's shard. samples: of it, where they are at hand."""
    place = version.data / record.name
    if place not in _images:
        labels = (read_label(sample, version.manifest) for sample in samples or version.samples(record))
        _images[place] = frozenset(label["sha256"] for label in labels)
    return _images[place]
