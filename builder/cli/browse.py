"""`tutelage browse`: versions in FiftyOne's App."""

from __future__ import annotations

import signal
from contextlib import suppress

import click

from builder.cli.options import json_option, open_store, sentences, store_option, trust_option
from builder.cli.output import bar, emit, say


@click.command()
@click.argument("versions", metavar="VERSION...", nargs=-1, required=True)
@click.option("--remote", is_flag=True, help="Open no browser: over ssh, forward the port and open the page locally.")
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True, help="Port of the App.")
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; any other than the default is visible to others.",
)
@click.option("--limit", type=click.IntRange(1), help="Load only N images of each version, spread evenly.")
@click.option("--reload", is_flag=True, help="Load again; tags and edits made in the App are lost.")
@click.option("--no-launch", is_flag=True, help="Only load, and print the name of the dataset.")
@trust_option
@store_option
@json_option
def browse(
    versions: tuple[str, ...],
    remote: bool,
    port: int,
    address: str,
    limit: int | None,
    reload: bool,
    no_launch: bool,
    trust: bool,
    store_root: str,
    as_json: bool,
) -> None:
    """Browse versions in the FiftyOne App.

    The App runs in a browser until Ctrl-C; several versions are shown side by side on the same images. Fields:
    ground_truth, teacher (all raw predictions), pseudo (kept) and ignored; begin with the saved views. To review, tag
    objects or images `accept` or `reject`, or change, delete and draw objects of `pseudo`; then run `tutelage review
    pull`. Datasets stay: a second call loads nothing.
    """
    with sentences():
        from builder.browse import session

        opened = session.browse(
            versions,
            open_store(store_root, trust),
            limit=limit,
            reload=reload,
            launch=not no_launch,
            address=address,
            port=port,
            track=bar,
            note=lambda text: say(text, err=True),
        )
        with opened as shown:
            value = {"dataset": shown.dataset, "samples": shown.samples}
            if shown.page is None:
                emit(as_json, value, f"{shown.dataset}: {shown.samples} images")
                return
            text = f"{shown.samples} images at {shown.page}; Ctrl-C stops it"
            if remote:
                text += f"\nfrom elsewhere: ssh -N -L {port}:127.0.0.1:{port} THIS_MACHINE, then open that page there"
            emit(as_json, value | {"page": shown.page}, text)
            if not remote:
                click.launch(shown.page)
            _wait()


def _wait() -> None:
    """Wait for Ctrl-C, or another signal that asks to end: that is how a session ends well."""
    with suppress(KeyboardInterrupt):
        signal.pause()
