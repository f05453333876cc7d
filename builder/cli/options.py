"""What every command shares: its options, its store, and errors as sentences."""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from threading import current_thread, main_thread
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, Literal

import click

from builder.cli.output import say
from builder.words import visible

if TYPE_CHECKING:
    from builder.cluster import Cluster
    from builder.store.store import Store


def open_store(root: str, trust: bool = False) -> Store:
    """The store in a folder; trust: see Store. Raises BuildError for a folder that is none, and cannot become one."""
    from builder.store.store import Store

    store = Store(root, trust=trust)
    store.check_root()
    return store


EXTRAS = dict.fromkeys(("torch", "torchvision", "timm", "accelerate", "safetensors"), "torch") | {
    "onnxruntime": "onnx",
    "transformers": "transformers",
    "pycocotools": "coco",
    "huggingface_hub": "hub",
    "fsspec": "remote",
    "fiftyone": "fiftyone",
    "bson": "fiftyone",
    "pymongo": "fiftyone",
    "ray": "ray",
}
"""Import name -> the extra of this package that brings it."""


class Failed(click.ClickException):
    """The work or a gate failed: exit code 1."""

    exit_code = 1


class Stopped(click.ClickException):
    """A signal asked to end: exit code 130, and how to go on."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        say(f"stopped: {self.message}", err=True)


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a command to end; what it is at is finished or given up, so that nothing stays half-written."""


@contextmanager
def sentences() -> Iterator[None]:
    """Turn errors that a user can fix into one sentence and exit code 1, signals that ask to end into one and exit code
    130, and warnings into one on stderr; others stay as they are."""
    from teachers.errors import TutelageError, brief

    _open_streams()
    try:
        with _spoken(), _stoppable():
            yield
    except TutelageError as error:
        for note in getattr(error, "__notes__", ()):  # the line of a file that is meant; the sentence stands last
            say(note, err=True)
        raise Failed(visible(" ".join(str(error).split()))) from None
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise Failed(f"this needs {error.name}, which is not installed: pip install 'tutelage[{extra}]'") from None
    except BrokenPipeError:
        raise  # the reader of our output went away (`| head`): click ends quietly
    except OSError as error:
        where = f" ({brief(error.filename)})" if error.filename else ""
        raise Failed(
            f"{error.strerror or error}{where}: finished work is kept; fix this and run the same command again"
        ) from None
    except Exception as error:  # of a library that could not load, or reach its server, for want of descriptors
        if not _lacks_descriptors(error):
            raise
        raise Failed("too many files are open: allow more with `ulimit -n 1024`, then run the command again") from None
    except KeyboardInterrupt as stop:
        kept = "; ".join(getattr(stop, "__notes__", ())) or "finished work is kept"
        raise Stopped(f"run the same command again to go on; {kept}") from None


def _open_streams() -> None:
    """Standard streams that are closed lead to nowhere: else the next file that is opened takes the number of one, and
    gets what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _lacks_descriptors(error: BaseException) -> bool:
    """Whether an error, or one behind it, is that no more files may be open."""
    link: BaseException | None = error
    while link is not None:
        if os.strerror(errno.EMFILE) in str(link):
            return True
        link = link.__cause__ or link.__context__
    return False


@contextmanager
def _stoppable() -> Iterator[None]:
    """Each of SIGNALS raises KeyboardInterrupt; a second one ends the process at once. One that is ignored from outside
    (`nohup`) stays so."""
    if current_thread() is not main_thread():
        yield  # only there can signals be handled
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for sign in taken:
            signal.signal(sign, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {sign: signal.getsignal(sign) for sign in SIGNALS}
    taken = [sign for sign, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    for sign in taken:
        signal.signal(sign, stop)
    try:
        yield
    finally:
        for sign in taken:
            signal.signal(sign, before[sign])


@contextmanager
def _spoken() -> Iterator[None]:
    """Print Tutelage's own warnings on stderr, each once."""
    from teachers.errors import TutelageWarning

    spoken: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", TutelageWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, TutelageWarning):
                others(message, category, *place, **more)
            elif str(message) not in spoken:
                spoken.add(str(message))
                say(f"warning: {message}", err=True)

        warnings.showwarning = show
        yield


store_option = click.option(
    "--store",
    "store_root",
    default="./store",
    envvar="TUTELAGE_STORE",
    show_default=True,
    show_envvar=True,
    help="Folder of the store (pools, predictions and versions).",
)
trust_option = click.option(
    "--trust", is_flag=True, help="Take the files of versions as they are, without checking their hashes."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
workers_option = click.option(
    "--workers", type=click.IntRange(1), default=None, help="Threads that read, decode and write.  [default: all cores]"
)
engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="This machine's cores, or the nodes of a Ray cluster; the result is the same.",
)
address_option = click.option(
    "--address", help="Of the Ray cluster, such as head:6379.  [default: Ray on this machine alone]"
)


@contextmanager
def cluster_of(engine: str, address: str | None, dry_run: bool = False) -> Iterator[Cluster | None]:
    """The cluster that --engine and --address name, for as long as the block lasts; None for this machine's cores, and
    where nothing is done. Ray prints what befalls nodes, log and all, on stdout, where results belong: in the block
    that leads to nowhere."""
    from builder.cluster import Cluster

    if engine == "local" and address is not None:
        raise click.UsageError(f"--address {address} is of a Ray cluster: add --engine ray")
    if engine == "local" or dry_run:
        yield None
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), Cluster(address) as cluster:
        yield cluster


profile_option = click.option(
    "--profile", is_flag=True, help="Print where the time of labelling went: reading, decoding, model, writing."
)
no_alarm_option = click.option(
    "--no-alarm", is_flag=True, help="Go on where the teacher's first predictions look wrong."
)


def counted_first(text: str | None) -> Literal[0, 1] | None:
    """The value of --counted-from."""
    return None if text is None else 0 if text == "0" else 1


counted_from_option = click.option(
    "--counted-from",
    type=click.Choice(["0", "1"]),
    help="What the corners of Pascal VOC boxes call the first pixel, if they do not show it.",
)
allow_code_option = click.option(
    "--allow-code", is_flag=True, help="Allow a python:MODULE:FACTORY teacher to run its code."
)


message_option = click.option(
    "-m", "--message", default="", help="What the version is for, as `tutelage log` shows it; it stays in this store."
)
