"""Pictures of what an augmentation does: images as they are and as the network sees them, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from builder.errors import BuildError
from builder.report.paint import SHOWN, class_colour, colour_strip
from builder.report.pictures import MARGIN
from builder.scan.entries import read_entry
from builder.scan.sources import list_source
from builder.store.files import new_file
from builder.truth.read import read_section
from builder.truth.records import subset
from students.augment.scene import FIT, Augment, AugmentRecipe, Placement
from students.data.loader import IMAGENET_GREY
from students.data.streams import Labelled, Scene, generator
from students.tasks.base import Drawing, Task
from students.tasks.choose import check_labels, task_of, usual_arch
from students.tasks.detection import DETECTION, Boxes
from students.train.recipe import TrainRecipe, load_train_recipe
from teachers.images import ImageError, decode_rgb

CELL, HEADER, CAPTION = 220, 22, 18
"""Pixels: the side of a canvas in the picture, the line above all, the line below each row."""
DRAWS = 4
"""Canvases of each image, beside the image as it is."""
_NOTHING = Boxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))


@dataclass(frozen=True)
class Subject:
    """What is shown: images with names, and marks of a task's; size: the canvas's side, fill: the padding's colour."""

    names: tuple[str, ...]
    scenes: tuple[Scene, ...]
    task: Task
    classes: tuple[str, ...]
    size: int
    fill: tuple[int, int, int]


POLICIES = ("S1", "S2", "S3", "S4")
"""Of Zoph et al., each stronger than the one before."""


def write_previews(
    sources: Sequence[str],
    out: Path,
    policies: Sequence[str] = (),
    *,
    count: int = 8,
    size: int = 512,
    seed: int = 0,
) -> dict[str, Path]:
    """Write a picture of what each policy does to images.

    Args:
        sources: a training recipe (`.yaml`), whose labelled images are shown with what the network would learn of them,
            or files, folders or globs of images.
        out: the PNG; of several policies its name is followed by theirs.
        policies: of POLICIES; by default the recipe's, of images all.
        count: images, a row each.
        size: of the network's input, for images; a recipe has its own.
        seed: others draw the same policies otherwise.

    Returns:
        The picture of each policy.

    Raises:
        BuildError: no images, images or labels that cannot be read, a recipe beside other sources, or another format
            than PNG.
    """
    if out.suffix.lower() != ".png":
        raise BuildError(f"picture {out} must be a PNG: give it a name that ends in .png")
    recipe = None
    if Path(sources[0]).suffix in (".yaml", ".yml"):
        if len(sources) > 1:
            raise BuildError(f"{sources[0]} is a recipe, which names its images: leave out {sources[1]}")
        recipe = load_train_recipe(Path(sources[0]))
    subject = labelled_subject(recipe, count) if recipe else image_subject(sources, count, size)
    sections = {name: AugmentRecipe.model_validate(name) for name in policies or POLICIES}
    if recipe and not policies:
        sections = {recipe.augment.policy: recipe.augment}
    flip = 0.0 if recipe and not recipe.flip else 0.5
    pictures = {}
    for name, section in sections.items():
        pictures[name] = out if len(sections) == 1 else out.with_stem(f"{out.stem}-{name}")
        picture = preview(subject, section.build(flip, subject.task.autoaugment), f"Augment-{name}", seed)
        with new_file(pictures[name]) as file:
            picture.save(file, "PNG")
    return pictures


def labelled_subject(recipe: TrainRecipe, count: int) -> Subject:
    """`count` labelled images of a training, spread evenly over them. Raises TruthError for labels that cannot be
    used."""
    labelled, network = recipe.labelled, recipe.network
    truth = read_section(labelled.options, "labelled", network.arch == "maskrcnn")
    task = task_of(network.arch or usual_arch(truth.kind), recipe.soft)
    check_labels(truth.kind, task, labelled.path)
    if labelled.limit:
        truth = subset(truth, labelled.limit, recipe.seed)
    stream, chosen = Labelled(truth, task), _spread(len(truth.images), count)
    if not chosen:
        raise BuildError(f"labelled set {labelled.path} has no images: there is nothing to show")
    red, green, blue = (round(255 * mean) for mean in network.mean)
    names = tuple(Path(truth.images[n].name).name for n in chosen)
    return Subject(names, tuple(stream[n] for n in chosen), task, truth.classes, network.size, (red, green, blue))


def image_subject(sources: Sequence[str], count: int, size: int) -> Subject:
    """`count` images, without labels, spread evenly over files, folders or globs. Raises BuildError for a source
    without images, or an image that cannot be read."""
    entries = sorted(entry for source in sources for entry in list_source(source))
    chosen = [entries[n] for n in _spread(len(entries), count)]
    if not chosen:
        raise BuildError(f"{', '.join(map(str, sources))} holds no images: name others")
    scenes = []
    for entry in chosen:
        try:
            scenes.append(Scene(decode_rgb(read_entry(entry)), _NOTHING))
        except ImageError as error:
            raise BuildError(f"image {entry.uri} cannot be used: {error}: leave it out") from error
    names = tuple(Path(entry.name).name for entry in chosen)
    return Subject(names, tuple(scenes), DETECTION, (), size, IMAGENET_GREY)


def preview(subject: Subject, augment: Augment, title: str, seed: int = 0) -> Image.Image:
    """A row for each image: as it is, fitted to the canvas, and DRAWS times augmented, with the boxes, masks, maps or
    class names that the network would learn; classes have colours, ignore regions are dashed."""
    drawn: list[list[Image.Image]] = []
    seen: set[int] = set()
    for row, scene in enumerate(subject.scenes):
        height, width = scene.pixels.shape[:2]
        cells = []
        for column in range(1 + DRAWS):
            rng, boxes = generator(seed, row, column), subject.task.boxes(scene.marks)
            placement = (augment if column else FIT).place(width, height, subject.size, rng, boxes)
            drawing = _cell(scene, placement, subject)
            cells.append(drawing.picture)
            seen |= drawing.classes
        drawn.append(cells)
    tall = drawn[0][0].height + CAPTION
    wide = MARGIN + (1 + DRAWS) * (CELL + MARGIN)
    named = [(subject.classes[n], class_colour(n)) for n in sorted(seen)]
    more = [(f"and {len(named) - SHOWN} more", "#ffffff")] if len(named) > SHOWN else []
    legend = colour_strip([*named[:SHOWN], *more, *subject.task.legend], wide)
    with_legend = bool(named)
    page = Image.new("RGB", (wide, HEADER + len(drawn) * tall + (legend.height if with_legend else 0)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    draw.text((MARGIN, 4), "as it is", fill="black", font=font)
    draw.text((2 * MARGIN + CELL, 4), title + subject.task.note, fill="black", font=font)
    for row, (cells, name) in enumerate(zip(drawn, subject.names, strict=True)):
        top = HEADER + row * tall
        for column, cell in enumerate(cells):
            page.paste(cell, (MARGIN + column * (CELL + MARGIN), top))
        caption = subject.task.caption(subject.scenes[row].marks, subject.classes)
        text = f"{name}   {caption}" if caption else name
        draw.text((MARGIN, top + tall - CAPTION + 1), text, fill="black", font=font)
    if with_legend:
        page.paste(legend, (0, HEADER + len(drawn) * tall))
    return page


def _cell(scene: Scene, placement: Placement, subject: Subject) -> Drawing:
    """One canvas with its labels."""
    canvas = Image.fromarray(placement.image(scene.pixels, subject.fill))
    resampling = Image.Resampling.NEAREST if placement.size < CELL else Image.Resampling.LANCZOS
    target = subject.task.place(scene.marks, placement)
    return subject.task.draw(canvas.resize((CELL, CELL), resampling), target, placement.size)


def _spread(total: int, count: int) -> list[int]:
    return [n * total // min(total, count) for n in range(min(total, count))]
