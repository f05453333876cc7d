"""Hugging Face models as teachers, compared with the library's own pipelines. Models are tiny and random."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from builder.cli.main import main
from builder.recipe.recipe import load_recipe
from teachers import load_teacher
from teachers.base import TeacherError, TeacherOptions, fingerprint

torch = pytest.importorskip("torch")
tf = pytest.importorskip("transformers")

from teachers import masks  # noqa: E402
from teachers.from_transformers.models import TransformersTeacher  # noqa: E402
from teachers.from_transformers.outputs import Cut, class_planes, find_masks, unpadded  # noqa: E402
from tests.helpers.tiny_transformers import CLASSES, save  # noqa: E402

PROMPTS = {"a red car": "car", "blue cell": "cell", "cars": "car"}
ALL: dict[str, dict[str, Any]] = {
    "detr": {"floor": 0.0},
    "rt_detr": {"floor": 0.0},
    "owlv2": {"floor": 0.0, "prompts": PROMPTS},
    "grounding_dino": {"floor": 0.0, "prompts": PROMPTS},
    "mask2former": {"floor": 0.0},
    "detr_masks": {"floor": 0.3},
    "segformer": {},
    "vit": {},
    "vit_labels": {},
}
"""Each tiny model, with options."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model, made when it is first asked for."""
    root = tmp_path_factory.mktemp("models")
    tf.utils.logging.disable_progress_bar()
    return lambda kind: root / kind if (root / kind).is_dir() else save(root / kind, kind)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    random = np.random.default_rng(3)
    small = [random.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((6, 8), (7, 5), (6, 8), (6, 8), (5, 9))]
    return [image.repeat(11, axis=0).repeat(11, axis=1) for image in small]


def teacher(folder: Path, **options: Any) -> TransformersTeacher:
    return TransformersTeacher(str(folder), TeacherOptions(**options))


def pipeline(task: str, folder: Path) -> Any:
    return tf.pipeline(task, model=str(folder), device="cpu")


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_boxes_equal_the_librarys_pipeline(kind: str, models: Any, images: list[np.ndarray]) -> None:
    folder = models(kind)
    oracle = pipeline("object-detection", folder)
    made = teacher(folder, floor=0.2)
    assert made.classes == ("red", "blue", "green") and made.description["kind"] == "detection"
    some = 0
    for found, image in zip(made.predict(images), images, strict=True):
        height, width = image.shape[:2]
        theirs = [one for one in oracle(Image.fromarray(image), threshold=0.2) if one["label"] != "N/A"]
        theirs.sort(key=lambda one: -one["score"])
        assert found.scores.tolist() == pytest.approx([one["score"] for one in theirs], abs=1e-5)
        assert [made.classes[n] for n in found.labels] == [one["label"] for one in theirs]
        boxes = np.array([list(one["box"].values()) for one in theirs]).clip(0, [width, height, width, height])
        assert np.abs(found.boxes - boxes).max() <= 1  # the pipeline's are whole pixels
        some += len(found)
    assert some > 10


def test_a_prompt_finds_what_the_librarys_pipeline_finds(models: Any, images: list[np.ndarray]) -> None:
    folder = models("owlv2")
    oracle = pipeline("zero-shot-object-detection", folder)
    made = teacher(folder, floor=0.1, prompts={"blue cell": "cell"})
    assert made.classes == ("cell",)
    for found, image in zip(made.predict(images), images, strict=True):
        theirs = oracle(Image.fromarray(image), candidate_labels=["blue cell"], threshold=0.1)
        height, width = image.shape[:2]
        boxes = np.array([list(one["box"].values()) for one in theirs])
        inside = (boxes[:, 0] < width - 1) & (boxes[:, 1] < height - 1)  # the others lie in the padding
        assert {round(float(score), 4) for score in found.scores} >= {
            round(one["score"], 4) for one, good in zip(theirs, inside, strict=True) if good
        }
        assert len(inside) >= len(found) >= inside.sum() > 0


def test_prompts_compete_for_a_box_and_may_share_a_class(models: Any, images: list[np.ndarray]) -> None:
    """Against the processor's own reading of the model's outputs."""
    folder, texts = models("owlv2"), list(PROMPTS)
    made = teacher(folder, floor=0.0, prompts=PROMPTS)
    assert made.classes == ("car", "cell") and made.description["prompts"] == texts
    labels = set()
    for found, image in zip(made.predict(images), images, strict=True):
        theirs, _ = read_by_the_library(folder, image)
        score = {
            round(float(score), 4): texts[int(n)] for score, n in zip(theirs["scores"], theirs["labels"], strict=True)
        }
        assert [made.classes[n] for n in found.labels] == [PROMPTS[score[round(float(s), 4)]] for s in found.scores]
        labels.update(found.labels.tolist())
    assert labels == {0, 1}


def read_by_the_library(folder: Path, image: np.ndarray) -> tuple[Any, Any]:
    """What a detector by text finds of PROMPTS, with everything above 0 kept, and the model's raw outputs."""
    processor = tf.AutoProcessor.from_pretrained(folder)
    model = tf.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    inputs = processor(images=Image.fromarray(image), text=[list(PROMPTS)], return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    (found,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.0, target_sizes=[image.shape[:2]], text_labels=[list(PROMPTS)]
    )
    return found, outputs


def test_a_grounded_box_is_of_the_prompt_with_the_most_probable_token(models: Any, images: list[np.ndarray]) -> None:
    folder, image = models("grounding_dino"), images[0]
    theirs, outputs = read_by_the_library(folder, image)
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    words = tokenizer.convert_ids_to_tokens(outputs.input_ids[0])
    assert words == ["[CLS]", "a", "red", "car", ".", "blue", "cell", ".", "car", "##s", ".", "[SEP]"]
    tokens = outputs.logits[0].sigmoid()
    of_car, of_cell = tokens[:, [1, 2, 3, 8, 9]].amax(1), tokens[:, [5, 6]].amax(1)
    best = torch.maximum(of_car, of_cell)
    order = best.argsort(descending=True, stable=True)
    (found,) = teacher(folder, floor=0.0, prompts=PROMPTS).predict([image])
    assert found.scores.tolist() == pytest.approx(best[order].tolist(), abs=1e-5)
    assert found.labels.tolist() == (of_cell > of_car)[order].int().tolist()
    height, width = image.shape[:2]
    assert np.allclose(found.boxes, theirs["boxes"][order].numpy().clip(0, [width, height] * 2), atol=1e-3)


@pytest.mark.parametrize("kind", ["segformer", "mask2former", "detr_masks"])
def test_maps_equal_the_librarys_pipeline(kind: str, models: Any, images: list[np.ndarray]) -> None:
    folder = models(kind)
    oracle = pipeline("image-segmentation", folder)
    made = teacher(folder, task="semantic")
    assert made.classes == CLASSES and made.description["kind"] == "semantic" and made.description["floor"] == 0
    planes = made.predict_probabilities(images)
    for image, found, plane in zip(images, made.predict(images), planes, strict=True):
        theirs = oracle(Image.fromarray(image), subtask="semantic")
        drawn = {one["label"]: np.asarray(one["mask"]) > 0 for one in theirs}
        assert {name: (found.labels == n).tolist() for n, name in enumerate(CLASSES) if (found.labels == n).any()} == {
            name: mask.tolist() for name, mask in drawn.items()
        }
        assert plane.dtype == np.float32 and plane.shape == (len(CLASSES), *image.shape[:2])
        total = plane.sum(axis=0)
        assert total.max() < 1 + 1e-5 and (kind != "segformer" or total.min() > 1 - 1e-5)
        assert np.abs(found.confidence - 255 * plane.max(axis=0)).max() < 0.501


def test_masks_are_those_of_the_librarys_pipeline_without_what_others_cover(
    models: Any, images: list[np.ndarray]
) -> None:
    folder = models("mask2former")
    oracle = pipeline("image-segmentation", folder)
    made = teacher(folder, floor=0.2)
    assert made.description["kind"] == "instance"
    some = 0
    for found, image in zip(made.predict(images), images, strict=True):
        theirs = oracle(Image.fromarray(image), subtask="instance", threshold=0.2)
        theirs = sorted((one for one in theirs if one["label"] != "N/A"), key=lambda one: -one["score"])
        assert found.scores.tolist() == pytest.approx([one["score"] for one in theirs], abs=1e-5)
        drawn = masks.decode(found.masks, *image.shape[:2])
        for mask, one, label, box in zip(drawn, theirs, found.labels, found.boxes, strict=True):
            assert made.classes[label] == one["label"] and not (np.asarray(one["mask"]) > 0)[~mask].any()
            rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        some += len(found)
    assert some > 3
    kept = teacher(folder, floor=0.2, nms_iou=0.3, max_detections=1).predict(images)
    assert all(len(found) <= 1 for found in kept)


def test_masks_that_share_pixels_out_equal_the_librarys_pipeline(models: Any, images: list[np.ndarray]) -> None:
    folder = models("detr_masks")
    oracle = pipeline("image-segmentation", folder)
    for found, image in zip(teacher(folder, floor=0.3).predict(images), images, strict=True):
        theirs = oracle(Image.fromarray(image), subtask="instance", threshold=0.3, overlap_mask_area_threshold=0.8)
        drawn = masks.decode(found.masks, *image.shape[:2])
        expected = [np.asarray(one["mask"]) > 0 for one in theirs if one["label"] != "N/A"]
        assert len(found) and sorted(m.tolist() for m in drawn) == sorted(m.tolist() for m in expected)


@pytest.mark.parametrize("kind", ["vit", "vit_labels"])
def test_probabilities_equal_the_librarys_pipeline(kind: str, models: Any, images: list[np.ndarray]) -> None:
    folder = models(kind)
    oracle = pipeline("image-classification", folder)
    made = teacher(folder)
    for found, image in zip(made.predict(images), images, strict=True):
        theirs = {one["label"]: one["score"] for one in oracle(Image.fromarray(image), top_k=99)}
        assert found.probabilities.tolist() == pytest.approx([theirs[name] for name in made.classes], abs=1e-6)
        assert (abs(found.probabilities.sum() - 1) < 1e-5) == (kind == "vit")


def numbers(prediction: Any) -> list[Any]:
    columns = ("boxes", "scores", "labels", "masks", "probabilities", "confidence")
    return [value for name in columns if (value := getattr(prediction, name, None)) is not None]


@pytest.mark.parametrize("kind", ALL)
def test_an_images_prediction_does_not_depend_on_its_batch(kind: str, models: Any, images: list[np.ndarray]) -> None:
    made = teacher(models(kind), **ALL[kind], batch_size=3)
    assert made.predict([]) == []
    for together, image in zip(made.predict(images), images, strict=True):
        (alone,) = made.predict([image])
        for a, b in zip(numbers(together), numbers(alone), strict=True):
            assert a == b if isinstance(a, tuple) else np.allclose(a, b, atol=1e-3 if a.dtype == np.float32 else 1)


def test_what_decides_predictions_is_in_the_fingerprint(models: Any, tmp_path: Path) -> None:
    folder = models("owlv2")
    copy = shutil.copytree(folder, tmp_path / "other name")

    def print_of(where: Path = folder, **options: Any) -> str:
        return fingerprint(teacher(where, **({"prompts": PROMPTS} | options)).description)

    changed = shutil.copytree(folder, tmp_path / "changed")
    settings = json.loads((changed / "processor_config.json").read_text())
    settings["image_processor"]["image_mean"] = [0.1, 0.2, 0.3]
    (changed / "processor_config.json").write_text(json.dumps(settings))
    torch.manual_seed(2)
    other = tf.AutoModelForZeroShotObjectDetection.from_pretrained(folder)
    torch.nn.init.normal_(other.class_head.dense0.weight)
    other.save_pretrained(shutil.copytree(folder, tmp_path / "weights"))
    found = [
        print_of(),
        print_of(floor=0.1),
        print_of(nms_iou=0.5),
        print_of(max_detections=5),
        print_of(dtype="bfloat16"),
        print_of(prompts={"a red car": "car"}),
        print_of(prompts=dict(reversed(PROMPTS.items()))),
        print_of(changed),
        print_of(tmp_path / "weights"),
    ]
    assert len(set(found)) == len(found)
    assert print_of(copy) == print_of(batch_size=2, threads=torch.get_num_threads()) == found[0]


def test_sizes_are_the_options(models: Any, images: list[np.ndarray]) -> None:
    def called_with(kind: str, **options: Any) -> Any:
        return teacher(models(kind), **options).description["processor"]["called_with"]

    assert called_with("detr") == {}
    assert called_with("detr", min_size=64) == {"size": {"shortest_edge": 64, "longest_edge": 96}}
    assert called_with("detr", max_size=64) == {"size": {"shortest_edge": 48, "longest_edge": 64}}
    assert called_with("segformer", min_size=96) == {"size": {"height": 96, "width": 96}}
    larger = teacher(models("segformer"), min_size=96).predict(images[:1])[0]
    assert larger.labels.shape == images[0].shape[:2]
    assert (larger.confidence != teacher(models("segformer")).predict(images[:1])[0].confidence).any()


def test_layers_that_predict_boxes_stay_in_float32(models: Any, images: list[np.ndarray]) -> None:
    for kind in ("detr", "owlv2", "rt_detr", "grounding_dino"):
        exact, half = (
            teacher(models(kind), **ALL[kind], dtype=dtype).predict(images[:1])[0] for dtype in ("float32", "bfloat16")
        )
        assert exact.scores.tolist() != half.scores.tolist()
        width = torch.tensor(half.boxes[:, 2] - half.boxes[:, 0]) / images[0].shape[1]
        assert (width.bfloat16().float() != width).any()


def test_class_wise_suppression_and_a_limit(models: Any, images: list[np.ndarray]) -> None:
    plain = teacher(models("rt_detr"), floor=0.0).predict(images)
    fewer = teacher(models("rt_detr"), floor=0.0, nms_iou=0.05).predict(images)
    assert sum(map(len, fewer)) < sum(map(len, plain))
    for all_of_them, some in zip(plain, fewer, strict=True):
        assert some.scores[0] == all_of_them.scores[0]
    limited = teacher(models("rt_detr"), floor=0.0, max_detections=2).predict(images)
    assert [found.scores.tolist() for found in limited] == [found.scores[:2].tolist() for found in plain]


def test_padding_is_no_part_of_a_map_or_mask() -> None:
    """An image of 24 x 40 pixels in an input of 32 x 64; a mask covers the upper 12 rows of the image."""
    pixel_mask = torch.zeros(1, 32, 64, dtype=torch.int64)
    pixel_mask[:, :24, :40] = 1
    planes = torch.full((1, 1, 32, 64), -9.0)
    planes[..., :12, :] = 9.0
    outputs = SimpleNamespace(class_queries_logits=torch.tensor([[[9.0, -9.0]]]), masks_queries_logits=planes)
    processor, own = tf.Mask2FormerImageProcessor(), unpadded(outputs, pixel_mask)
    (code,) = find_masks(processor, own, Cut(np.array([0]), 0.5, None, None), 24, 40).masks or ()
    drawn = masks.decode([code], 24, 40)[0]
    assert drawn[:12].all() and not drawn[12:].any()
    sure = class_planes(processor, own, 24, 40)[0]
    assert (sure[:11] > 0.99).all() and (sure[13:] < 0.01).all()  # a pixel without a mask belongs to no class
    assert unpadded(outputs, torch.ones_like(pixel_mask)) is outputs


def test_a_map_is_of_the_whole_image_not_of_its_centre(models: Any, tmp_path: Path, images: list[np.ndarray]) -> None:
    folder = shutil.copytree(models("segformer"), tmp_path / "m")
    tf.MobileNetV2ImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(
        folder
    )
    made = teacher(folder)
    assert made.description["processor"]["called_with"] == {"do_center_crop": False}
    edge = images[0].copy()
    edge[:, :4] = 255  # outside the centre
    assert (made.predict([edge])[0].confidence != made.predict(images[:1])[0].confidence)[:, :8].any()


def edited(folder: Path, to: Path, **config: Any) -> Path:
    shutil.copytree(folder, to)
    content = json.loads((to / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(content))
    return to


def without(folder: Path, to: Path, *names: str) -> Path:
    shutil.copytree(folder, to)
    for name in names:
        (to / name).unlink()
    return to


def pickled(folder: Path, to: Path) -> Path:
    without(folder, to, "model.safetensors")
    torch.save({}, to / "pytorch_model.bin")
    return to


def damaged(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    (to / "model.safetensors").write_bytes(b"12345678 nothing")
    return to


def headless(folder: Path, to: Path) -> Path:
    model = tf.AutoModelForImageClassification.from_pretrained(folder)
    shutil.copytree(folder, to)
    model.vit.save_pretrained(to)
    return edited(to, to.with_name("again"), architectures=["ViTForImageClassification"])


def text_model(folder: Path, to: Path) -> Path:
    return edited(folder, to, architectures=["BertForMaskedLM"], model_type="bert")


def broken(folder: Path, to: Path) -> Path:
    model = tf.AutoModelForImageClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    shutil.copytree(folder, to)
    model.save_pretrained(to)
    return to


REFUSED: dict[str, tuple[str, Callable[[Path, Path], Path], dict[str, Any], str]] = {
    "a folder that is not there": ("vit", lambda f, to: to / "x", {}, "not found: give a folder with config.json"),
    "no config": ("vit", lambda f, to: without(f, to, "config.json"), {}, "config.json"),
    "no processor": ("vit", lambda f, to: without(f, to, "preprocessor_config.json"), {}, "cannot be loaded"),
    "pickled weights": ("vit", pickled, {}, "cannot be loaded"),
    "damaged weights": ("vit", damaged, {}, "cannot be loaded"),
    "weights that lack the head": ("vit", headless, {}, "lacks 2 weights of ViTForImageClassification, classifier"),
    "a text model": ("vit", text_model, {}, "is a BertForMaskedLM (type bert), which is no detector"),
    "weights with a NaN": ("vit", broken, {}, "the output logits of"),
    "a regression": ("vit", lambda f, to: edited(f, to, problem_type="regression"), {}, "regression model"),
    "code of its own": (
        "vit",
        lambda f, to: edited(f, to, model_type="mine", auto_map={"AutoConfig": "mine.Mine"}),
        {},
        "cannot be loaded",
    ),
    "two outputs of a name": (
        "detr",
        lambda f, to: edited(f, to, id2label={"0": "a", "1": "b", "2": "a", "3": "c"}),
        {},
        "different names",
    ),
    "a task it does not have": ("vit", lambda f, to: f, {"task": "semantic"}, "cannot do task 'semantic'"),
    "no prompts": ("owlv2", lambda f, to: f, {}, "needs prompts"),
    "a prompt with a full stop": ("owlv2", lambda f, to: f, {"prompts": {"a. b": "c"}}, "full stop"),
    "prompts for a model without text": ("detr", lambda f, to: f, {"prompts": PROMPTS}, "takes no text"),
    "classes beside prompts": ("owlv2", lambda f, to: f, {"classes": ("a",), "prompts": PROMPTS}, "classes"),
    "too few classes": ("detr", lambda f, to: f, {"classes": ("a",)}, "1 classes given for 4 outputs"),
    "a floor of a map": ("segformer", lambda f, to: f, {"floor": 0.3}, "floor=0.3 has no meaning"),
    "the longer side of a square": ("segformer", lambda f, to: f, {"max_size": 99}, "max_size=99 has no meaning"),
    "a size its positions do not have": ("vit", lambda f, to: f, {"min_size": 64}, "failed in transformers"),
    "top_k": ("detr", lambda f, to: f, {"top_k": 9}, "top_k=9 has no meaning"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_used_is_said_in_one_sentence(what: str, models: Any, tmp_path: Path) -> None:
    kind, change, options, message = REFUSED[what]
    folder = change(models(kind), tmp_path / "model")
    with pytest.raises(TeacherError) as error:
        teacher(folder, **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_code_that_comes_with_a_model_is_not_run(models: Any, tmp_path: Path) -> None:
    """Where the type is one of the library's own, its own code is used."""
    folder = edited(models("vit"), tmp_path / "m", auto_map={"AutoModelForImageClassification": "mine.Mine"})
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    teacher(folder)
    assert not (tmp_path / "ran").exists()


def test_a_recipe_labels_with_a_model_beside_it(models: Any, tmp_path: Path, images: list[np.ndarray]) -> None:
    shutil.copytree(models("owlv2"), tmp_path / "owl")
    (tmp_path / "pool").mkdir()
    for n, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "pool" / f"{n}.png")
    prompts = json.dumps(PROMPTS)
    (tmp_path / "recipe.yaml").write_text(
        f"name: cars\npool: pool\nteacher: {{spec: 'transformers:owl', prompts: {prompts}}}\nkeep: {{score: 0.5}}\n"
    )
    store = str(tmp_path / "store")
    done = CliRunner().invoke(main, ["build", str(tmp_path / "recipe.yaml"), "--store", store, "--only", "label"])
    assert done.exit_code == 0, done.output
    loaded = load_recipe(tmp_path / "recipe.yaml").rooted(tmp_path).teacher
    assert len(load_teacher(loaded.spec, loaded.options).predict(images)) == len(images)
