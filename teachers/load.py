"""The model that a spec names: the one place where a family of models is chosen by name."""

from __future__ import annotations

from dataclasses import replace

from teachers.base import Teacher, TeacherError, TeacherOptions

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

    Args:
        spec: `family:argument`, e.g. `torchvision:retinanet_resnet50_fpn_v2`, `onnx:model.onnx`, `checkpoint:runs/x`.
            (`replay:` is no model: builder.label.replay serves it.)
        options: of the teacher; the defaults by default.
        allow_code: whether `python:module:factory`, which runs code of the user's, may be loaded.

    Returns:
        The teacher; its `predict` takes a sequence of uint8 (H, W, 3) RGB images.

    Raises:
        TeacherError: for an unknown family, a missing file or an option that the family does not have.
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
        case "replay":
            raise TeacherError(
                f"{spec} are stored predictions, no model that can be asked: give them to evaluate, or as the teacher "
                "of a recipe"
            )
        case _:
            raise TeacherError(f"unknown teacher {spec!r}: write one of {', '.join(FAMILIES)}")
