"""The `teacher` section of a recipe: one teacher, or several fused into one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from builder.sections import Section
from teachers.base import TeacherOptions

FILES = ("onnx", "checkpoint", "replay")
"""Families whose spec names a path."""
OF_ENSEMBLE = ("floor", "max_detections", "tta")
"""Options of an ensemble as a whole; all others are its teachers'."""
UNKNOWN = "unknown"


class MemberSection(Section):
    """A teacher of an ensemble, or just its `spec`; its options stand beside `spec`.

    weight: of what it says. classes: its name of a class -> the ensemble's, or null to drop it; a list names its
    outputs, as for any teacher. license: of its weights. floor: the ensemble's, unless given.
    """

    spec: str
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    classes: dict[str, str | None] | None = None
    license: str = UNKNOWN
    options: TeacherOptions = TeacherOptions()

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        listed = not isinstance(value.get("classes"), dict)
        return _flattened(value, {"spec", "weight", "license", *(() if listed else ("classes",))})

    @model_validator(mode="after")
    def _is_model(self) -> MemberSection:
        if self.spec.startswith("replay:"):
            raise ValueError("stored predictions are no model that can be asked together with others: take it out")
        return self

    def rooted(self, folder: Path) -> MemberSection:
        """See Recipe.rooted."""
        spec, options = _root_spec(self.spec, folder), _root_options(self.options, folder)
        return self.model_copy(update={"spec": spec, "options": options})

    def published(self) -> MemberSection:
        """See Recipe.published."""
        update = {"spec": published_spec(self.spec), "options": _published_options(self.options)}
        return self.model_copy(update=update)


class TeacherSection(Section):
    """The `teacher` section, or just its `spec`. In a recipe the options stand beside `spec`, not below `options`.

    images: for `replay:`, what names the images of the results (builder.label.replay.replay). license: of the teacher's
    weights; of an ensemble its teachers', if all are known.
    ensemble: in place of `spec`, teachers that are fused (teachers.fused.ensemble). iou: at which their boxes are one
    object. alarm: whether labelling stops where the first images' predictions cannot be right (builder.label.alarm).
    """

    spec: str | None = None
    ensemble: tuple[MemberSection, ...] | None = None
    iou: Annotated[float, Field(gt=0, lt=1)] | None = None
    images: str | None = None
    license: str = UNKNOWN
    alarm: bool = True
    options: TeacherOptions = TeacherOptions()

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if isinstance(value.get("ensemble"), list):
            value = _with_members(value)
        return _flattened(value, {"spec", "ensemble", "iou", "images", "license", "alarm"})

    @model_validator(mode="after")
    def _spec_or_ensemble(self) -> TeacherSection:
        if self.ensemble is None:
            if self.spec is None:
                raise ValueError("names no teacher: add spec, or ensemble")
            if self.iou is not None:
                raise ValueError("iou is at which boxes of an ensemble are one object: remove it")
            return self
        if self.spec is not None:
            raise ValueError("has both spec and ensemble: remove one")
        if not self.ensemble:
            raise ValueError("ensemble names no teacher: add one or more, each with a spec")
        if self.images is not None:
            raise ValueError("images is for replay: teachers only: remove it")
        default = TeacherOptions()
        for name in (field.name for field in fields(TeacherOptions) if field.name not in OF_ENSEMBLE):
            if getattr(self.options, name) != getattr(default, name):
                raise ValueError(f"{name} is each teacher's own: move it to those of the ensemble")
        return self

    @property
    def name(self) -> str:
        """The spec, or those of an ensemble, readable."""
        if self.ensemble is None:
            return self.spec or ""
        return f"ensemble of {', '.join(member.spec for member in self.ensemble)}"

    def without_alarm(self, off: bool = True) -> TeacherSection:
        """This teacher with its alarm off, if so told."""
        return self.model_copy(update={"alarm": False}) if off else self

    def rooted(self, folder: Path) -> TeacherSection:
        """See Recipe.rooted."""
        members = self.ensemble and tuple(member.rooted(folder) for member in self.ensemble)
        return self.model_copy(
            update={
                "spec": self.spec and _root_spec(self.spec, folder),
                "ensemble": members,
                "images": root(self.images, folder),
                "options": _root_options(self.options, folder),
            }
        )

    def published(self) -> TeacherSection:
        """See Recipe.published."""
        members = self.ensemble and tuple(member.published() for member in self.ensemble)
        return self.model_copy(
            update={
                "spec": self.spec and published_spec(self.spec),
                "ensemble": members,
                "images": tail(self.images),
                "options": _published_options(self.options),
            }
        )


def tail(path: str | None) -> str | None:
    """Of an absolute path of this machine the last part, which is no secret; all else as it is."""
    if path is None or "://" in path or not (os.path.isabs(path) or path.startswith("~")):
        return path
    return os.path.basename(path.rstrip("/")) or "."


def published_spec(spec: str) -> str:
    """A spec with the last part of an absolute path."""
    family, colon, argument = spec.partition(":")
    return f"{family}:{tail(argument)}" if colon and family != "python" else spec


def _published_options(options: TeacherOptions) -> TeacherOptions:
    return replace(options, weights=tail(options.weights))


def root(path: str | None, folder: Path) -> str | None:
    """A path that is relative to `folder`, made to lead from here; an address as it is."""
    return path if path is None or "://" in path else str(folder / path)


def _root_spec(spec: str, folder: Path) -> str:
    family, _, argument = spec.partition(":")
    is_file = family in FILES or (family == "transformers" and (folder / argument).is_dir())  # else it is an id
    return f"{family}:{root(argument, folder)}" if is_file else spec


def _root_options(options: TeacherOptions, folder: Path) -> TeacherOptions:
    return replace(options, weights="DEFAULT" if options.weights == "DEFAULT" else root(options.weights, folder))


def _flattened(value: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A section with everything but its own keys below `options`."""
    if "options" in value:
        return value
    kept = {key: value[key] for key in value if key in keys}
    return kept | {"options": {key: value[key] for key in value if key not in kept}}


def _with_members(value: dict[str, Any]) -> dict[str, Any]:
    """A section whose members have its floor where they have none, and which has their licences."""
    members = [{"spec": member} if isinstance(member, str) else member for member in value["ensemble"]]
    licences = [str(member.get("license", UNKNOWN)) for member in members if isinstance(member, dict)]
    known = UNKNOWN if UNKNOWN in licences else ", ".join(dict.fromkeys(licences))
    floor = {"floor": value["floor"]} if "floor" in value else {}
    filled = [floor | member if isinstance(member, dict) and "options" not in member else member for member in members]
    return {"license": known or UNKNOWN, **value, "ensemble": filled}
