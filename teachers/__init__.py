"""Teachers: models that label images. They know pixels and predictions; nothing of files' layout, stores or shards.

`load_teacher` is the one place where a family of models is chosen by name.
"""

from __future__ import annotations

from teachers.base import Detections, Teacher, TeacherError, TeacherOptions

__all__ = ["Detections", "Teacher", "TeacherError", "TeacherOptions", "load_teacher"]

FAMILIES = ("torchvision:NAME", "onnx:MODEL.onnx", "checkpoint:RUN_FOLDER", "replay:RESULTS.json")


def load_teacher(spec: str, options: TeacherOptions | None = None) -> Teacher:
    """Load the teacher that `spec` names, ready to predict.

    `spec` is `family:argument`, e.g. `torchvision:retinanet_resnet50_fpn_v2`, `onnx:model.onnx`, `checkpoint:runs/x`.
    Raises TeacherError, in one sentence, for an unknown family, a missing file or an option the family does not have.
    (`replay:` is no model: `builder.replay` serves it.)
    """
    family, _, argument = spec.partition(":")
    options = options or TeacherOptions()
    match family:
        case "torchvision" if argument:
            from teachers.torchvision_models import TorchvisionTeacher

            return TorchvisionTeacher(argument, options)
        case "onnx" if argument:
            from teachers.onnx_models import OnnxTeacher

            return OnnxTeacher(argument, options)
        case "checkpoint" if argument:
            from teachers.checkpoint import CheckpointTeacher

            return CheckpointTeacher(argument, options)
        case _:
            raise TeacherError(f"unknown teacher {spec!r}: write one of {', '.join(FAMILIES)}")
