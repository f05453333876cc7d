"""Teachers: models that label images. They know pixels and predictions; nothing of files' layout, stores or shards."""

from teachers.base import Detections, Teacher, TeacherError, TeacherOptions
from teachers.load import load_teacher

__all__ = ["Detections", "Teacher", "TeacherError", "TeacherOptions", "load_teacher"]
