"""`tutelage browse`: versions in FiftyOne's App."""

from __future__ import annotations

import signal
from types import FrameType

import click

from builder.cli.options import json_option, sentences, store_option
from builder.cli.output import bar, emit


@click.command()
@click.argument("versions", metavar="VERSION...", nargs=-1, required=True)
@click.option("--remote", is_flag=True, help="Open no browser: over ssh, forward the port and open the page at home.")
@click.option("--port", type=click.IntRange(1, 65535), default=5151, show_default=True, help="Of the App.")
@click.option("--address", default="127.0.0.1", show_default=True, help="To listen on; others can be seen by anyone.")
@click.option("--limit", type=click.IntRange(1), help="Load only N images of each version, evenly spread.")
@click.option("--reload", is_flag=True, help="Load again; tags and edits made in the App are lost.")
@click.option("--no-launch", is_flag=True, help="Only load, and print the dataset's name.")
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
    store_root: str,
    as_json: bool,
) -> None:
    """Look at VERSION in FiftyOne's App, in a browser, until Ctrl-C; of several, at what each says of the same images.

    Fields: ground_truth, teacher (all raw predictions), pseudo (kept) and ignored; look at the saved views first. To
    review, tag objects or images `accept` or `reject`, or change, delete and draw objects of `pseudo`; then run
    `tutelage review pull`. Datasets stay: a second call loads nothing.
    """
    with sentences():
        from builder.browse.app import app, connected, database_folder
        from builder.browse.load import load
        from builder.hub.remote import open_version
        from builder.store.store import Store

        store = Store(store_root)
        chosen = [open_version(ref, store) for ref in versions]
        with connected(store) as fo:
            name = load(
                fo, store, chosen, limit=limit, reload=reload, track=bar, note=lambda said: click.echo(said, err=True)
            )
            samples = len(fo.load_dataset(name))
            if no_launch:
                emit(as_json, {"dataset": name, "samples": samples}, f"{name}: {samples} images")
                return
            with app(fo, name, database_folder(store) / "app.log", address, port) as page:
                text = f"{samples} images at {page}; Ctrl-C ends it"
                if remote:
                    text += (
                        f"\nfrom elsewhere: ssh -N -L {port}:127.0.0.1:{port} THIS_MACHINE, then open that page there"
                    )
                emit(as_json, {"dataset": name, "samples": samples, "page": page}, text)
                if not remote:
                    click.launch(page)
                _wait()


def _wait() -> None:
    """Until Ctrl-C or a request to end, after which what was started is ended, too."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
