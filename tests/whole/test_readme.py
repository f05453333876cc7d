"""The README's commands run as written, in order, on its own recipes; only training lengths and sizes are cut."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from scenes import Counts, make_scenes

from builder.cli import main as cli
from tests import ROOT
from tests.helpers.hub_server import HubServer, use_hub
from tests.helpers.s3 import running_s3

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition("    #")[0].strip() for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()
]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]
pytestmark = [  # of FiftyOne, its MongoDB client, and huggingface_hub's uploads
    pytest.mark.filterwarnings(f"ignore:{message}:DeprecationWarning")
    for message in ("Passing a class to strawberry.scalar", "No uuidRepresentation is specified", "Use 'content=")
]
IMAGE = "000003.jpg"
"""What stands for an image of the reader's own."""
NETWORK = "network: {backbone: 'timm:test_resnet', size: 96, channels: 16, head_depth: 1, levels: [8, 16]}"
SMALL = [
    (r"^batch: .*\n", ""),
    (r"^steps: \d+", "steps: 3\nbatch: 4\nworkers: 0"),
    (r"^  score: 0.5 ", "  score: 0.05 "),  # a teacher of three steps is sure of nothing
    (r"^train: .*", f"train: {{{NETWORK}, steps: 2, batch: 4, workers: 0}}"),
    (r"^teacher: {steps: .*", "teacher: {steps: 2}"),
    (r"^  fractions: .*\n|^  augment: .*\n", ""),
    (r"seeds: \d", "seeds: 1"),
    (r"^build: .*", "build: {keep: {score: 0.05, ignore: null}, teacher: {floor: 0.01}}"),
    (r"^network: .*", NETWORK),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The reader's folder: `data/` with labels and pool, and the README's recipes."""
    folder = tmp_path_factory.mktemp("readme")
    make_scenes(folder / "data", Counts(labelled=6, truth=8, pool=12, test=6))
    (folder / "data" / "truth.json").rename(folder / "data" / "val.json")
    for kind, block in BLOCKS:
        if kind == "yaml":
            name = re.match(r"# (\S+\.yaml)\n", block)
            assert name, f"a YAML block must begin with its file's name: {block[:40]!r}"
            for pattern, small in SMALL:
                block = re.sub(pattern, small, block, flags=re.MULTILINE)
            (folder / name[1]).write_text(block)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HOME", str(folder / "cache"))
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        with HubServer.running(folder / "hub") as server, running_s3() as s3:
            use_hub(patch, server.url, folder)
            s3.put_folder(folder / "data/pool", "2026")
            s3.client.create_bucket(Bucket="datasets")
            yield folder


def finish(tasks: Path, export: Path) -> None:
    """What Label Studio exports once somebody has submitted all tasks and rejected a box of the first."""
    content = json.loads(tasks.read_text())
    for task in content:
        task["annotations"] = [{"id": 1, "result": task.pop("predictions")[0]["result"]}]
    box = next(region for task in content for region in task["annotations"][0]["result"])
    where = next(task for task in content if box in task["annotations"][0]["result"])
    where["annotations"][0]["result"].remove(box)
    export.write_text(json.dumps(content))


def test_every_command_runs_as_written(workspace: Path) -> None:
    runner = CliRunner()
    assert sum(command.startswith("tutelage") for command in COMMANDS) >= 8
    for command in filter(None, COMMANDS):
        program, *arguments = shlex.split(command.replace("IMAGE", IMAGE))
        if program == "make":
            assert re.search(f"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            continue
        entry = {"tutelage": cli.main, "build-pseudo": cli.build}[program]
        if arguments[0] == "browse":  # which else waits for Ctrl-C
            arguments.append("--no-launch")
        if program == "build-pseudo":
            arguments += ["--allow-empty", "--allow-partial"]  # a teacher of three steps is sure of nothing
        if "export.json" in arguments:
            finish(Path("queue.json"), Path("export.json"))
        result = runner.invoke(entry, arguments)
        assert result.exit_code == 0, f"{command}\n{result.output}"
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own README


def test_every_command_is_in_the_readme_and_has_help_worth_reading() -> None:
    for name, command in cli.main.commands.items():
        assert re.search(rf"\b{name}\b", README), f"README does not mention {name}"
        assert command.help and len(command.help) > 60, name
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or getattr(parameter, "help", None), (
                f"{name} {parameter.name}"
            )


def test_the_recipe_reference_lists_every_key() -> None:
    from dataclasses import fields

    from builder.label.section import MemberSection, TeacherSection
    from builder.recipe.recipe import PoolOptions, Recipe
    from builder.rules.class_map import ClassMap
    from builder.rules.keep import Keep
    from students.train.recipe import TrainRecipe
    from teachers.base import TeacherOptions, Views

    reference = README.partition("## Recipe reference")[2].partition("## The order")[0]
    listed = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", reference))))  # words of code, not of the prose
    from builder.evidence.gates import Gates
    from builder.recipe.recipe import ImageOptions, ShardOptions
    from builder.truth.options import LabelOptions

    keys = [*Gates.model_fields, *ImageOptions.model_fields, *LabelOptions.model_fields, *ShardOptions.model_fields]
    keys += [*Recipe.model_fields, *PoolOptions.model_fields, *Keep.model_fields, *TrainRecipe.model_fields]
    keys += [*ClassMap.model_fields, *TeacherSection.model_fields, *MemberSection.model_fields]
    keys += [field.name for options in (TeacherOptions, Views) for field in fields(options)]
    assert [key for key in keys if key not in listed] == []
