"""The model, the ensemble or the stored results that a teacher section names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from builder.cluster import Cluster
from builder.errors import BuildError
from builder.label.cluster import ClusterLabeller
from builder.label.labeller import Labeller
from builder.label.model import ModelLabeller
from builder.label.profile import Profile, untimed
from builder.label.section import TeacherSection
from teachers.base import OF_BOXES, Teacher
from teachers.depth import PLAIN, Reading


def load_labeller(
    teacher: TeacherSection,
    workers: int | None = None,
    allow_code: bool = False,
    reading: Reading = PLAIN,
    profile: Profile | None = None,
    cluster: Cluster | None = None,
) -> Labeller:
    """The model or the replay that a teacher section names. allow_code: see load_teacher. reading: how the bytes of
    images become the pixels that it sees. profile: gets the seconds that its parts take. cluster: whose nodes hold the
    model; a replay, which has none, reads here. Raises BuildError for a profile of a cluster."""
    family, _, argument = (teacher.spec or "").partition(":")
    if family == "replay" and argument:
        from builder.label.replay.replay import Replay

        images = Path(teacher.images) if teacher.images else None
        return Replay(Path(argument), images, teacher.options, workers, reading, profile.part if profile else untimed)
    if teacher.images is not None:
        raise BuildError(f"teacher.images = {teacher.images!r} is for replay: teachers only: remove it")
    if cluster is not None and profile is not None:
        raise BuildError("a profile is of this machine alone: take it with --engine local")
    if cluster is not None:
        here = teacher.rooted(Path.cwd())  # a node's working directory is another
        return ClusterLabeller(cluster, partial(_on_model, here, workers, allow_code, reading), reading)
    return _on_model(teacher, workers, allow_code, reading, profile)


def _on_model(
    teacher: TeacherSection, workers: int | None, allow_code: bool, reading: Reading, profile: Profile | None = None
) -> ModelLabeller:
    return ModelLabeller(load_model(teacher, allow_code), workers, teacher.alarm, reading, profile)


def load_model(teacher: TeacherSection, allow_code: bool = False) -> Teacher:
    """The model, or the ensemble of models, that a teacher section names. Raises TeacherError."""
    from teachers import load_teacher

    if teacher.ensemble is None:
        return load_teacher(teacher.name, teacher.options, allow_code=allow_code)
    from teachers.fused.ensemble import IOU, EnsembleTeacher, Member

    members = [
        Member(load_teacher(member.spec, member.options, allow_code=allow_code), member.weight, member.classes)
        for member in teacher.ensemble
    ]
    options = teacher.options
    floor = options.floor if members[0].teacher.description["kind"] in OF_BOXES else None  # the rest is stored whole
    fused = EnsembleTeacher(members, teacher.iou or IOU, floor, options.max_detections)
    if options.tta is None:
        return fused
    from teachers.fused.views import ViewsTeacher

    return ViewsTeacher(fused, options.tta, options.max_detections)
