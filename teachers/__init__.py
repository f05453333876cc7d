"""Teachers: models that label images. They know pixels and predictions; nothing of files' layout, stores or shards.

`load_teacher` is the one place where a family of models is chosen by name.
"""

from __future__ import annotations

from dataclasses import replace

from teachers.base import Detections, Teacher, TeacherError, TeacherOptions

__all__ = ["Detections", "Teacher", "TeacherError", "TeacherOptions", "load_teacher"]

FAMILIES = (
    "torchvision:NAME",
    "onnx:MODEL.onnx",
    "transformers:FOLDER_OR_ID",
    "checkpoint:RUN_FOLDER",
    "python:MODULE:FACTORY",
    "replay:RESULTS",
)


def load_teacher(spec: str, options: TeacherOptions | None = None, *, allow_code: bool = False) -> Teacher:
    """Load the teacher that `spec` names, ready to predict.

    `spec` is `family:argument`, e.g. `torchvision:retinanet_resnet50_fpn_v2`, `onnx:model.onnx`, `checkpoint:runs/x`.
    allow_code: whether `python:module:factory`, which runs code of the user's, may be loaded.
    Raises TeacherError, in one sentence, for an unknown family, a missing file or an option the family does not have.
    (`replay:` is no model: `builder.replay` serves it.)
    """
    family, _, argument = spec.partition(":")
    options = options or TeacherOptions()
    if options.tta is not None:
        from teachers.fused.views import ViewsTeacher

        teacher = load_teacher(spec, replace(options, tta=None), allow_code=allow_code)
        return ViewsTeacher(teacher, options.tta, options.max_detections)
    if family != "transformers":
        options.refuse(f"a teacher of the family {family}", "task", "prompts")
    options.refuse("a model", "format")
    match family:
        case "torchvision" if argument:
            from teachers.from_torchvision.detectors import load_torchvision

            return load_torchvision(argument, options)
        case "onnx" if argument:
            from teachers.from_onnx.models import load_onnx

            return load_onnx(argument, options)
        case "transformers" if argument:
            from teachers.from_transformers.models import TransformersTeacher

            return TransformersTeacher(argument, options)
        case "checkpoint" if argument:
            from teachers.from_checkpoint import CheckpointTeacher

            return CheckpointTeacher(argument, options)
        case "python" if argument:
            from teachers.from_python import load_python

            return load_python(argument, options, allow_code=allow_code)
        case _:
            raise TeacherError(f"unknown teacher {spec!r}: write one of {', '.join(FAMILIES)}")
