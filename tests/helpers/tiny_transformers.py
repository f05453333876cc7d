"""Models of transformers with a few thousand random weights, saved as published ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

CLASSES = ("red", "N/A", "blue", "green")
NAMES: dict[str, Any] = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: n for n, name in enumerate(CLASSES)}}
SHORT = {"shortest_edge": 48, "longest_edge": 96}
SQUARE = {"height": 64, "width": 64}


def save(folder: Path, kind: str) -> Path:
    """The tiny model of this kind at `folder`. Weights are larger than usual, so that images make a difference."""
    torch.manual_seed(1)
    model, processor = MAKERS[kind]()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name.split("."):
                weight.copy_(torch.randn_like(weight) * 1.5 / max(1, weight[0].numel()) ** 0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def resnet() -> Any:
    return tf.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def detr_config() -> Any:
    return tf.DetrConfig(
        use_timm_backbone=False,
        backbone_config=resnet(),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        num_queries=12,
        **NAMES,
    )


def detr() -> Any:
    return tf.DetrForObjectDetection(detr_config()), tf.DetrImageProcessor(size=SHORT)


def detr_masks() -> Any:
    return tf.DetrForSegmentation(detr_config()), tf.DetrImageProcessor(size=SHORT)


def rt_detr() -> Any:
    backbone = tf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = tf.RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_in_channels=[16, 16, 16],
        d_model=16,
        num_queries=12,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        decoder_n_points=2,
        num_denoising=0,
        **NAMES,
    )
    return tf.RTDetrForObjectDetection(config), tf.RTDetrImageProcessor(size=SQUARE)


def segformer() -> Any:
    config = tf.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        **NAMES,
    )
    return tf.SegformerForSemanticSegmentation(config), tf.SegformerImageProcessor(size=SQUARE)


def mask2former() -> Any:
    backbone = tf.SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = tf.Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=8,
        **NAMES,
    )
    return tf.Mask2FormerForUniversalSegmentation(config), tf.Mask2FormerImageProcessor(size=SQUARE, ignore_index=255)


def vit_config(**more: Any) -> Any:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return tf.ViTConfig(**size, image_size=32, patch_size=8, **(NAMES | more))


def vit() -> Any:
    size = {"height": 32, "width": 32}
    return tf.ViTForImageClassification(vit_config()), tf.ViTImageProcessor(size=size)


def vit_labels() -> Any:
    model = tf.ViTForImageClassification(vit_config(problem_type="multi_label_classification"))
    return model, tf.ViTImageProcessor(size={"height": 32, "width": 32})


def letters() -> dict[str, int]:
    """A vocabulary of letters, also as ends of words, for CLIP's tokenizer."""
    signs = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    return {sign: n for n, sign in enumerate([*signs, "<|startoftext|>", "<|endoftext|>"])}


def owlv2() -> Any:
    vocabulary = letters()
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 16}
    config = tf.Owlv2Config(
        text_config=text, vision_config={**size, "image_size": 64, "patch_size": 16}, projection_dim=16
    )
    tokenizer = tf.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
    return tf.Owlv2ForObjectDetection(config), tf.Owlv2Processor(tf.Owlv2ImageProcessor(size=SQUARE), tokenizer)


def grounding_dino() -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "a", "red", "blue", "car", "cell", "##s"]
    tokenizer = tf.BertTokenizer(vocab={word: n for n, word in enumerate(words)})
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    backbone = tf.SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 1, 2], window_size=4, out_indices=[1, 2, 3]
    )
    config = tf.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=tf.BertConfig(vocab_size=len(words), **size),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=12,
        num_feature_levels=4,
        max_text_len=32,
    )
    processor = tf.GroundingDinoProcessor(tf.GroundingDinoImageProcessor(size=SHORT), tokenizer)
    return tf.GroundingDinoForObjectDetection(config), processor


MAKERS: dict[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (
        *(detr, detr_masks, rt_detr, segformer, mask2former),
        *(vit, vit_labels, owlv2, grounding_dino),
    )
}
