"""From a folder or an id to a transformers model and its processor: what it predicts, what it is called with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor, PretrainedConfig
from transformers.models.auto import modeling_auto as auto

from teachers.base import OF_BOXES, Kind, TeacherError, TeacherOptions
from teachers.from_torchvision.weights import first_line

HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
NO_CLASS = ("__background__", "N/A")
"""Names of a detector's outputs that stand for no class, in published models."""
LOADERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "text": ("AutoModelForZeroShotObjectDetection", auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES),
    "detection": ("AutoModelForObjectDetection", auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES),
    "universal": ("AutoModelForUniversalSegmentation", auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES),
    "instance": ("AutoModelForInstanceSegmentation", auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES),
    "semantic": ("AutoModelForSemanticSegmentation", auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES),
    "classification": ("AutoModelForImageClassification", auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES),
}
"""What a model is made for -> transformers' loader and its classes of models."""
KINDS: dict[str, tuple[Kind, ...]] = {
    "text": ("detection",),
    "detection": ("detection",),
    "universal": ("instance", "semantic"),
    "instance": ("instance",),
    "semantic": ("semantic",),
    "classification": ("classification",),
}
"""What it is made for -> what it can predict, its default first."""
LEFT_OUT = {"eomt", "eomt_dinov3", "oneformer", "omdet-turbo", "videomt"}
"""Types of models whose inputs or outputs take more than is done here."""


@dataclass(frozen=True)
class Source:
    """Where a model lies: a local folder, which is never looked up on the Hub, or a Hub id at a revision."""

    name: str
    revision: str | None
    local: bool

    @property
    def how(self) -> dict[str, Any]:
        """Keywords of every `from_pretrained`: nothing that comes with a model is run."""
        return {"revision": self.revision or "main", "local_files_only": self.local, "trust_remote_code": False}


@dataclass(frozen=True)
class Task:
    """made_for: a key of LOADERS; kind: its use; prompts: what a detector by text looks for -> its class."""

    made_for: str
    kind: Kind
    prompts: Mapping[str, str]


def find_source(name: str) -> Source:
    """Raises TeacherError for what is neither a folder nor can be an id."""
    if Path(name).is_dir():
        return Source(name, None, True)
    match = HUB_ID.fullmatch(name)
    if not match:
        raise TeacherError(f"model folder {name} not found: give a folder with config.json, or a Hub id, ORG/NAME")
    return Source(match["id"], match["revision"], False)


def read_config(source: Source) -> dict[str, Any]:
    """The content of config.json. Raises TeacherError."""
    try:
        content, _ = PretrainedConfig.get_config_dict(source.name, **source.how)
    except (OSError, ValueError) as error:
        raise _unusable(source, error) from error
    if not isinstance(content, dict) or not content:
        raise TeacherError(f"{source.name} has no config.json: give a folder that save_pretrained wrote, or a Hub id")
    return content


def find_task(source: Source, config: Mapping[str, Any], options: TeacherOptions) -> Task:
    """What the model is made for, by the `architectures` of its config.json, and used for. Raises TeacherError for one
    of no known purpose, a `task` it does not have, and prompts that are missing or have no meaning."""
    architecture, type = str((config.get("architectures") or ["none"])[0]), config.get("model_type")
    made = [use for use, (_, names) in LOADERS.items() if architecture in _flat(names.values())]
    if not made and options.task:  # a config without architectures: by its type
        made = [use for use, (_, names) in LOADERS.items() if options.task in KINDS[use] and type in names]
    if not made or type in LEFT_OUT:
        raise TeacherError(
            f"{source.name} is a {architecture} (type {type}), which is no detector, segmenter or classifier that can "
            "be used here: give another, or say task, if its config lacks architectures"
        )
    if options.task is not None and options.task not in KINDS[made[0]]:
        raise TeacherError(
            f"{source.name} is a {architecture}, which cannot do task {options.task!r}: "
            f"write {' or '.join(KINDS[made[0]])}, or nothing"
        )
    if made[0] == "text":
        return Task(made[0], "detection", _prompts(options))
    options.refuse(f"{architecture}, which takes no text", "prompts")
    kind = next((kind for kind in get_args(Kind) if kind == options.task), KINDS[made[0]][0])
    return Task(made[0], kind, {})


def _flat(names: Any) -> set[str]:
    return {part for name in names for part in ([name] if isinstance(name, str) else name)}


def _prompts(options: TeacherOptions) -> dict[str, str]:
    options.refuse("a detector by text (its prompts name the classes)", "classes")
    if not options.prompts:
        raise TeacherError('a detector by text needs prompts: set them to what to look for, such as {"a red car": car}')
    wrong = next((text for text in options.prompts if not text.strip() or "." in text), None)
    if wrong is not None:
        raise TeacherError(f"prompt {wrong!r} is empty or has a full stop, which separates prompts: write it without")
    return dict(options.prompts)


def load(source: Source, task: Task) -> tuple[Any, Any]:
    """The model, in float32 and ready to predict, and its processor: of images, or of images and text. Raises
    TeacherError for files that are missing, unsafe, damaged or incomplete."""
    loader = getattr(transformers, LOADERS[task.made_for][0])
    processors = AutoProcessor if task.made_for == "text" else AutoImageProcessor
    try:
        processor = processors.from_pretrained(source.name, **source.how)
        model, report = loader.from_pretrained(
            source.name, **source.how, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # damaged files make it raise almost anything
        raise _unusable(source, error) from error
    if missing := sorted(report["missing_keys"]):
        raise TeacherError(
            f"{source.name} lacks {len(missing)} weights of {type(model).__name__}, {missing[0]} first, which would be "
            "random: give a model that was trained for this task"
        )
    return model.eval(), processor


def _unusable(source: Source, error: Exception) -> TeacherError:
    reason = first_line(error)[:200].rstrip(". ")
    return TeacherError(
        f"model {source.name} cannot be loaded by transformers ({reason}): give a folder that save_pretrained wrote, "
        "with .safetensors weights, or an id that can be reached"
    )


def call_arguments(source: Source, images: Any, kind: Kind, options: TeacherOptions) -> dict[str, Any]:
    """What the processor of images is called with beside them. Raises TeacherError for a size it does not have."""
    arguments: dict[str, Any] = {}
    if kind != "classification" and getattr(images, "do_center_crop", False):
        arguments["do_center_crop"] = False  # labels are of the whole image
    if options.min_size is None and options.max_size is None:
        return arguments
    size = dict(getattr(images, "size", None) or {})
    size = {side: pixels for side, pixels in size.items() if pixels is not None}
    if "shortest_edge" in size:
        size["shortest_edge"] = options.min_size or size["shortest_edge"]
        longest = options.max_size or size.get("longest_edge")
        return arguments | {"size": size | ({"longest_edge": longest} if longest else {})}
    options.refuse(f"{source.name}, whose processor makes images of one size (min_size sets it)", "max_size")
    if set(size) != {"height", "width"}:
        raise TeacherError(f"min_size cannot be set for {source.name}: its processor has the size {size}, no sides")
    return arguments | {"size": {"height": options.min_size, "width": options.min_size}}


def output_names(source: Source, config: Any, task: Task, options: TeacherOptions) -> tuple[str, ...]:
    """The class of each output, or of each prompt. Raises TeacherError."""
    if task.prompts:
        return tuple(task.prompts.values())
    names = tuple(str(config.id2label[n]) for n in range(config.num_labels))
    if options.classes is None:
        return names
    if len(options.classes) != len(names):
        raise TeacherError(f"{len(options.classes)} classes given for {len(names)} outputs of {source.name}")
    return options.classes


def classes_of(source: Source, outputs: tuple[str, ...], task: Task) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes, and the position in them of each output, int (K,), -1 for none. Prompts may share a class; outputs
    may not. Raises TeacherError."""
    none: tuple[str, ...] = NO_CLASS if task.kind in OF_BOXES else ()
    classes = tuple(dict.fromkeys(name for name in outputs if name not in none))
    place = {name: n for n, name in enumerate(classes)}
    position = np.array([place.get(name, -1) for name in outputs])
    if not classes or (not task.prompts and len(classes) < int((position >= 0).sum())):
        raise TeacherError(f"classes of {source.name} must be different names: set the teacher option classes")
    if task.kind == "semantic" and len(classes) > 255:
        raise TeacherError(f"{source.name} has {len(classes)} classes: a map has room for 255")
    return classes, position


def encode_prompts(source: Source, processor: Any, task: Task) -> tuple[dict[str, Tensor], list[list[int]]]:
    """What a detector by text is fed beside an image, each (P, T) or (1, T), and the tokens of each prompt: their ids
    (OWL-ViT, a row a prompt) or their places in the one row (Grounding DINO). Raises TeacherError."""
    if not task.prompts:
        return {}, []
    texts = list(task.prompts)
    try:
        encoded = dict(processor(text=[texts], return_tensors="pt"))
    except Exception as error:  # tokenizers share no narrower class
        raise _unusable(source, error) from error
    ids = encoded["input_ids"]
    if len(ids) == len(texts) and not is_grounded(processor):
        return encoded, [row.tolist() for row in ids]
    tokenizer = processor.tokenizer
    stop, special = tokenizer.convert_tokens_to_ids("."), {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    phrases: list[list[int]] = [[]]
    for place, token in enumerate(ids[0].tolist()):
        if token == stop:
            phrases.append([])
        elif token not in special:
            phrases[-1].append(place)
    phrases = [phrase for phrase in phrases if phrase]
    if len(phrases) != len(texts):
        raise TeacherError(f"{len(texts)} prompts became {len(phrases)} for {source.name}: give fewer or other prompts")
    return encoded, phrases


def is_grounded(processor: Any) -> bool:
    """Whether prompts are joined to one text, whose tokens the model scores (Grounding DINO)."""
    return "GroundingDino" in type(processor).__name__
