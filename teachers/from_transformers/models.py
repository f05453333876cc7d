"""Hugging Face models as teachers: detectors, also by text, segmenters and classifiers."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from teachers.base import OF_BOXES, Kind, Prediction, SemanticMap, TeacherError, TeacherOptions
from teachers.from_torchvision.weights import first_line, pick_device, runtime_of, settle, state_sha256
from teachers.from_transformers import tasks as tasks
from teachers.from_transformers.outputs import (
    OUTPUTS,
    Cut,
    check_finite,
    class_planes,
    class_probabilities,
    find_boxes,
    find_masks,
    find_phrases,
    unpadded,
)
from teachers.images import middle
from teachers.stages import Stages

NOT_DECIDING = {"_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype"}
"""Keys of a config.json that decide no prediction."""
BOX_LAYER = re.compile(r"bbox|box_head")
"""In the name of a layer that predicts boxes."""
TRIAL = (64, 96)
"""Height and width of the image that a model is tried with."""
Result = TypeVar("Result")
Read = Callable[[SimpleNamespace, int, int], Result]
"""Outputs for one image, its height and width -> what lies in them."""
Prepared = dict[str, Tensor]


class Seen(NamedTuple):
    """An image; as the processor makes it, or None for later; its height and width."""

    pixels: np.ndarray
    inputs: Prepared | None
    size: tuple[int, ...]


class TransformersTeacher:
    """A model of the `transformers` library, as a Teacher.

    name: a local folder as `save_pretrained` writes it, or an id on the Hub, `org/name` or `org/name@revision`. Weights
    are read from safetensors only, and code that comes with a model is never run. What it predicts follows from
    `architectures` in its config.json; where it can do several kinds, or has none there, `TeacherOptions.task` says it
    (`semantic` makes maps with a model of masks). A detector by text needs `prompts`: what to look for -> its class;
    several may share one. A Grounding DINO's box belongs to the prompt whose best token scores highest.

    Each image is prepared alone, with the model's processor, and run only with those that became equally large, so that
    none is padded for another's sake. The processor's own `post_process_…` reads the outputs; floor, NMS and limit are
    ours. nms_iou: none unless set, for these models are trained to need none; for masks it is an IoU of masks. min_size
    and max_size stand for the processor's shorter and longer side, or min_size for both of its square. Maps are of the
    whole image, not of its centre, and without the processor's padding. Where a processor gives each pixel to one
    object (DETR's masks), a lower floor can take pixels from the stronger ones. float16 (GPU only) and bfloat16 run
    what autocast runs in them, except what predicts boxes. A model is tried once on loading.

    Raises TeacherError: on loading, for a model that is missing, unsafe, incomplete or made for something else, and for
    an option without meaning for it; from `predict`, if the model fails or gives a NaN.
    """

    def __init__(self, name: str, options: TeacherOptions) -> None:
        family = "a transformers model (its folder brings weights and processor)"
        options.refuse(family, "top_k", "upscale", "weights", "masks", "jitter")
        transformers.utils.logging.disable_progress_bar()
        source = tasks.find_source(name)
        config = tasks.read_config(source)
        task = tasks.find_task(source, config, options)
        self._kind: Kind = task.kind
        if self._kind not in OF_BOXES:
            options.refuse(f"a {self._kind} model, which is stored whole", "floor", "nms_iou", "max_detections")
        self._device, self._dtype = pick_device(options), getattr(torch, options.dtype)
        model, processor = tasks.load(source, task)
        outputs = tasks.output_names(source, model.config, task, options)
        self.classes, position = tasks.classes_of(source, outputs, task)
        self.batch_size, self._name = options.batch_size, source.name
        self._images = getattr(processor, "image_processor", processor)
        self._arguments = tasks.call_arguments(source, self._images, self._kind, options)
        self._text, phrases = tasks.encode_prompts(source, processor, task)
        floor = options.floor if self._kind in OF_BOXES else 0.0
        self._cut = Cut(position, floor, options.nms_iou, options.max_detections)
        self._read = self._reader(phrases if task.prompts and tasks.is_grounded(processor) else [], model.config)
        self.description: Mapping[str, Any] = {
            "kind": self._kind,
            "family": "transformers",
            "architecture": type(model).__name__,
            "config": {key: value for key, value in config.items() if key not in NOT_DECIDING},
            "weights_sha256": state_sha256(model.state_dict()),
            "processor": {**json.loads(self._images.to_json_string()), "called_with": self._arguments},
            "classes": list(self.classes),
            "outputs": list(outputs),
            "prompts": list(task.prompts),
            "tokens": self._text["input_ids"].tolist() if task.prompts else [],
            "floor": floor,
            "nms_iou": options.nms_iou,
            "max_detections": options.max_detections,
            "dtype": options.dtype,
        }
        self.runtime: Mapping[str, Any] = {**runtime_of(self._device), "transformers": transformers.__version__}
        self._model = model.to(self._device)
        _predict_boxes_in_float32(self._model, self._device)
        self._one = Lock()
        self.stages = Stages(self._see, self._run, self._finish, functools.partial(settle, self._device))
        self.predict([np.zeros((*TRIAL, 3), np.uint8)])

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """See Teacher.predict."""
        return self._each(images, self._read)

    def predict_probabilities(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of a semantic model the probability of each class in each pixel, float32 (C, H, W), for each image. Where it
        stems from masks, a pixel's may sum to less than 1. Raises TeacherError for a model of another kind."""
        if self._kind != "semantic":
            raise TeacherError(f"{self._name} predicts no map ({self._kind}): give a semantic segmenter")
        return self._each(images, lambda *place: class_planes(self._images, *place))

    def _reader(self, phrases: list[list[int]], config: Any) -> Read[Prediction]:
        match self._kind:
            case "detection" if phrases:
                return lambda outputs, *size: find_phrases(outputs, phrases, self._cut, *size)
            case "detection":
                return lambda outputs, *size: find_boxes(self._images, outputs, self._cut, *size)
            case "instance":
                return lambda outputs, *size: find_masks(self._images, outputs, self._cut, *size)
            case "semantic":
                return lambda outputs, *size: SemanticMap.of(class_planes(self._images, outputs, *size))
            case "classification":
                if config.problem_type == "regression":
                    raise TeacherError(f"{self._name} is a regression model: give a classifier")
                # as the library's pipeline decides
                independent = config.problem_type == "multi_label_classification" or config.num_labels == 1
                return lambda outputs, *size: class_probabilities(outputs, independent)

    def _each(self, images: Sequence[np.ndarray], read: Read[Result]) -> list[Result]:
        """What `read` finds for each image."""
        results: dict[int, Result] = {}
        with self._told(), torch.inference_mode():
            sizes = [image.shape[:2] for image in images]
            for place, outputs in self._ran(map(self._prepare, images)):
                results[place] = read(outputs, *sizes[place])
        return [results[place] for place in range(len(images))]

    def _see(self, image: np.ndarray) -> Seen:
        """In a thread, one at a time: the library does not promise that a processor may be called by several. Only
        beside a GPU: torch's arithmetic in a second thread would take the cores from a model on the CPU."""
        if self._device.type == "cpu":
            return Seen(image, None, image.shape[:2])
        with self._told(), self._one:
            return Seen(image, self._prepare(image), image.shape[:2])

    def _run(self, seen: Sequence[Seen]) -> list[tuple[SimpleNamespace, Seen]]:
        with self._told():
            prepared = (self._prepare(image.pixels) if image.inputs is None else image.inputs for image in seen)
            ran = dict(self._ran(prepared))
        return [(ran[place], image) for place, image in enumerate(seen)]

    def _finish(self, ran: Sequence[tuple[SimpleNamespace, Seen]]) -> list[Prediction]:
        with self._told(), torch.inference_mode():
            return [self._read(outputs, *image.size) for outputs, image in ran]

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong in the library is a TeacherError."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise TeacherError(f"out of memory on {self.batch_size} images at once: lower batch_size") from error
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise TeacherError(f"{self._name} failed in transformers: {first_line(error)[:300]}") from error

    def _ran(self, prepared: Iterable[Prepared]) -> Iterator[tuple[int, SimpleNamespace]]:
        """The place of each image and what the model gives for it. Those that are prepared to one size are run
        together."""
        alike: dict[tuple[Any, ...], dict[int, Prepared]] = {}
        for place, inputs in enumerate(prepared):
            waiting = alike.setdefault(tuple((name, *value.shape) for name, value in inputs.items()), {})
            waiting[place] = inputs
            if len(waiting) == self.batch_size:
                yield from self._outputs(waiting)
                waiting.clear()
        for waiting in alike.values():
            yield from self._outputs(waiting)

    def _prepare(self, image: np.ndarray) -> Prepared:
        cropped = self._kind == "classification" and getattr(self._images, "do_center_crop", False)
        picture = Image.fromarray(
            middle(image) if cropped else image
        )  # a form that leaves no doubt which axis holds the colours
        made = self._images(images=[picture], return_tensors="pt", **self._arguments)
        inputs = {name: made[name] for name in ("pixel_values", "pixel_mask") if name in made}
        if self._kind == "detection" and "pixel_mask" in inputs and not inputs["pixel_mask"].all():
            raise TeacherError(f"the processor of {self._name} pads images, and boxes would shift: remove its pad_size")
        return inputs

    def _outputs(self, batch: Mapping[int, Prepared]) -> Iterator[tuple[int, SimpleNamespace]]:
        if not batch:
            return
        first = next(iter(batch.values()))
        inputs = {name: torch.cat([inputs_of[name] for inputs_of in batch.values()]).to(self._device) for name in first}
        text = {name: value.repeat(len(batch), 1).to(self._device) for name, value in self._text.items()}
        with torch.inference_mode():
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                outputs = self._model(**inputs, **text)
            planes = {
                name: getattr(outputs, name).float() for name in OUTPUTS if getattr(outputs, name, None) is not None
            }
            of_each = []
            for n, (place, inputs_of) in enumerate(batch.items()):
                outputs_of = SimpleNamespace(**{name: value[n : n + 1] for name, value in planes.items()})
                check_finite(outputs_of, self._name)
                of_each.append((place, unpadded(outputs_of, inputs_of.get("pixel_mask"))))
        yield from of_each


def _predict_boxes_in_float32(model: nn.Module, device: torch.device) -> None:
    """Keep autocast out of the layers that predict boxes: in half precision 1000 pixels are known to 1 (float16) or 8
    (bfloat16) pixels."""
    for name, module in model.named_modules():
        above, _, last = name.rpartition(".")
        in_list = BOX_LAYER.search(above) and isinstance(model.get_submodule(above), nn.ModuleList)
        if (in_list or BOX_LAYER.search(last)) and not isinstance(module, nn.ModuleList):
            module.forward = functools.partial(_in_float32, module.forward, device.type)


def _in_float32(forward: Callable[..., Any], device: str, *inputs: Any, **named: Any) -> Any:
    with torch.autocast(device, enabled=False):
        return forward(
            *(value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for value in inputs),
            **named,
        )
