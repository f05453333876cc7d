"""From images and a teacher to a version: scan, label, rules, shards, store. `builder.build` reads like a recipe."""


class BuildError(Exception):
    """Something a user can mend. The message is one sentence with the offending value and the next step."""
