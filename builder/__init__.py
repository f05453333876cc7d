"""From images and a teacher to a version: scan, label, rules, shards, store. `builder.build` reads like a recipe."""
