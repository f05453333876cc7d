"""The command line: parse, call, print."""

from __future__ import annotations

from typing import Any

import click

from builder.cli.browse import browse
from builder.cli.build import build, label, scan
from builder.cli.evidence import calibrate, sweep
from builder.cli.export import cat, export, materialize, report
from builder.cli.hub import publish, pull
from builder.cli.log import diff, log
from builder.cli.review import review
from builder.cli.show import show
from builder.cli.study import doctor, study
from builder.cli.train import evaluate, pretrain, preview_augment, train
from builder.cli.versions import explain, fsck, gc, recut, rm, tag, verify

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class PipelineOrder(click.Group):
    """Lists commands in the order of the pipeline, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=PipelineOrder, context_settings=CONTEXT)
@click.version_option(package_name="tutelage", prog_name="tutelage")
def main() -> None:
    """Turn the predictions of a teacher model into pseudo-label datasets you can trust.

    \b
    images --scan--> pool --label--> predictions --rules--> version (WebDataset shards) --train--> student

    Start with `tutelage build RECIPE.yaml`, which runs every stage that is not yet done.
    """
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\..*")


for command in (scan, label, calibrate, sweep, build):
    main.add_command(command)
main.add_command(build, "build-pseudo")
for command in (log, show, diff, explain, recut, verify, fsck, tag, rm, gc, report, export, cat, materialize):
    main.add_command(command)
for command in (pretrain, train, evaluate, study, doctor, preview_augment, browse, review, publish, pull):
    main.add_command(command)


def build_pseudo_main() -> None:
    """`build-pseudo RECIPE`: the same as `tutelage build RECIPE`."""
    build.main(prog_name="build-pseudo", **CONTEXT)
