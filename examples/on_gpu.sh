#!/usr/bin/env bash
# The studies from ImageNet's weights, which are dear on a CPU: pre-training against augmentation and labels on CIFAR-10,
# and few labels on blood cells and street scenes. For one GPU that several cells share, with 16 cores; from the root of
# a checkout after `make setup`, with the data of the examples beside it. What is done is skipped, so that it can be
# started again. The figures lie in runs/studies/*/index.html.
set -euo pipefail
python=.venv/bin/python tutelage=.venv/bin/tutelage workers=${WORKERS:-12}
"$python" examples/imagenet_weights.py
for split in cifar10/imagenet bccd/few_labels camvid/study; do
  "$python" "examples/${split}_split.py"
done
for study in bccd/imagenet camvid/study; do
  "$tutelage" study "examples/$study.yaml" --workers "$workers" "$@"
done
# what two cores had at 32 pixels, here at 64 and for longer: a study of its own
"$tutelage" study examples/cifar10/imagenet.yaml --workers "$workers" --out runs/studies/cifar10-imagenet-64 \
  --set train.network.size=64 --set train.network.levels=[8,16,32] --set train.steps=600 --set teacher.steps=400 "$@"
