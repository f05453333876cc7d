"""What holds for the tree as a whole: light start-up, small files, safe loading, no traces of anyone's machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT

FOLDERS = ("teachers", "builder", "students", "examples", "benchmarks")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
EXTRAS = {
    *("torch", "torchvision", "timm", "accelerate", "safetensors", "onnxruntime", "pycocotools", "transformers"),
    *("fiftyone", "huggingface_hub", "datasets", "ray", "sklearn", "matplotlib"),
}
"""Top-level packages that only an extra installs."""
HEAVY = {*EXTRAS, "duckdb", "numpy", "pandas", "PIL", "pyarrow", "pydantic", "simplejpeg"}
"""What `tutelage --help` can do without."""
MAX_FILE, MAX_FUNCTION, MAX_FOLDER = 350, 65, 16


OWNERS = {
    "students.evaluate.coco": "pycocotools",
    "builder.browse.app": "fiftyone",
    "builder.hub.publish": "huggingface_hub",
}
"""Modules that import an extra when they are imported."""


def name_of(path: Path) -> str:
    """A source file as the module that it is."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in SOURCES if path.relative_to(ROOT).parts[0] not in ("examples", "benchmarks")}


def loaded(code: str, cwd: Path) -> set[str]:
    """Top-level packages in a fresh interpreter after `code`."""
    code += "\nimport sys; print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def tracked() -> Iterator[Path]:
    """Files that git has or would add."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    yield from (ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file())


def parsed() -> Iterator[tuple[str, ast.AST]]:
    """(place, node) of everything in the sources."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", node


def test_the_loader_check_sees_what_is_loaded(tmp_path: Path) -> None:
    assert "pydantic" in loaded("import pydantic", tmp_path)


@pytest.mark.parametrize("command", ["main", "build_pseudo_main"])
def test_help_loads_no_heavy_package(command: str, tmp_path: Path) -> None:
    code = f"""
import sys
from builder.cli.main import {command}
sys.argv = ["tutelage", "--help"]
try:
    {command}()
except SystemExit as stop:
    assert stop.code in (0, None), stop.code
"""
    assert not loaded(code, tmp_path) & HEAVY


def test_base_install_imports_no_extra(tmp_path: Path) -> None:
    """All of `builder` and the plain parts of `teachers` can be imported where no extra is installed."""
    modules = {name for name in MODULES if name.startswith("builder") and "__main__" not in name} - OWNERS.keys()
    assert len(modules) > 100, "the sources are not where this test looks for them"
    modules |= {"teachers", "teachers.base", "teachers.images", "teachers.boxes"}
    assert not loaded("import " + ", ".join(sorted(modules)), tmp_path) & EXTRAS


def test_owners_are_modules() -> None:
    """A module that moved away from under its exception would be checked no more."""
    assert not OWNERS.keys() - MODULES.keys()


def imports() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, inside of functions too, but not for the type checker alone."""
    edges: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        typing = [
            node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ]
        unseen = {id(node) for block in typing for node in ast.walk(block)}
        named: list[str] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and id(node) not in unseen:
                named += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and id(node) not in unseen:
                assert not node.level, f"{path}:{node.lineno}: imports here are absolute"
                named += [f"{node.module}.{alias.name}" for alias in node.names]
        owners = {full if full in MODULES else full.rpartition(".")[0] for full in named}
        edges[name] = (owners & MODULES.keys()) - {name}
    return edges


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring, the first of them twice; none: empty."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_through_others() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}})) == {"b", "c"}
    edges = imports()
    assert len(edges) > 200 and sum(map(len, edges.values())) > 1000
    assert circle(edges) == []


def test_no_folder_is_crowded_and_each_package_says_what_it_is() -> None:
    folders = {path.parent for path in MODULES.values()}
    modules = {folder: [path for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in folders}
    assert {str(folder): len(paths) for folder, paths in modules.items() if len(paths) > MAX_FOLDER} == {}
    silent = [folder for folder in folders if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))]
    assert silent == []


def test_files_and_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {n}" for path in SOURCES if (n := len(path.read_text().splitlines())) > MAX_FILE
    ]
    for place, node in parsed():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            n = node.end_lineno - node.lineno + 1
            long += [f"{place} {node.name}: {n}"] if n > MAX_FUNCTION else []
    assert not long


def test_nothing_loads_code_as_data() -> None:
    """No pickle, eval, exec, `yaml.load` or `torch.load` without `weights_only=True`."""
    assert not [place for place, node in parsed() if unsafe(node)]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import pickle", True),
        ("from joblib import load", True),
        ("eval('1')", True),
        ("model.eval()", False),
        ("yaml.load(text)", True),
        ("yaml.safe_load(text)", False),
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, map_location='cpu', weights_only=True)", False),
        ("numpy.load(path, allow_pickle=True)", True),
        ("numpy.load(path)", False),
    ],
)
def test_the_check_for_unsafe_loading(code: str, expected: bool) -> None:
    assert any(unsafe(node) for node in ast.walk(ast.parse(code))) is expected


def unsafe(node: ast.AST) -> bool:
    serializers = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    match node:
        case ast.Import(names=names):
            return any(alias.name.partition(".")[0] in serializers for alias in names)
        case ast.ImportFrom(module=str(module)):
            return module.partition(".")[0] in serializers
        case ast.Call(func=ast.Name(id="eval" | "exec")):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="yaml"), attr=attribute)):
            return attribute in ("load", "load_all", "full_load", "unsafe_load")
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
            return not any(key.arg == "weights_only" and ast.unparse(key.value) == "True" for key in keywords)
        case ast.keyword(arg="allow_pickle", value=value):
            return ast.unparse(value) != "False"
        case _:
            return False


def test_no_path_of_a_machine_in_the_repository() -> None:
    homes = re.compile(r"(?<![\w.:/-])(?:/(?:root|home|work|Users|opt|mnt)/\w|[A-Z]:\\\w)")
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), 1):
            if homes.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found


def test_constraints_pin_every_dependency_and_name_no_address() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.]+", line)] == []
    pins = dict(line.split("==") for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    for text in chain(project["project"]["dependencies"], *extras, project["dependency-groups"]["dev"]):
        requirement = Requirement(text)
        if requirement.name != "tutelage":
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement
