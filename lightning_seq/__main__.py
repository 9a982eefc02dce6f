"""The console script: chooses a command and imports only what that one needs."""

import importlib
import io
import os
import pkgutil
import select
import signal
import sys
from argparse import ArgumentError, ArgumentParser, RawDescriptionHelpFormatter
from types import ModuleType

import lightning_seq
from lightning_seq import commands
from lightning_seq.errors import InputError, did_you_mean


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 1 for bad input, 2 for wrong usage."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    _print_in_any_encoding()
    try:
        return _dispatch_into_pipe(argv)
    except InputError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if debug or error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}: give a place that can be used", file=sys.stderr)
        return 1
    except ArgumentError as error:
        if debug:
            raise
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _print_in_any_encoding() -> None:
    """Prints a character that the terminal's encoding lacks as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _dispatch_into_pipe(argv: list[str]) -> int:
    """Runs a command, and ends quietly when the reader of a pipe, such as ``head``, has read enough."""
    try:
        status = _dispatch(argv)
        sys.stdout.flush()  # here, where an error can be handled, rather than when the interpreter ends
    except BrokenPipeError:
        if not _reader_has_left():  # a pipe to another process broke
            raise
        return 128 + signal.SIGPIPE
    return status


def _reader_has_left() -> bool:
    """Says whether nothing reads the standard output any more, and then drops what is still buffered."""
    if not isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    left = any(event & select.POLLERR for _, event in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return left


def _dispatch(argv: list[str]) -> int:
    by_name = {name: module for module in _modules() for name in module.COMMANDS}
    if not argv or argv[0].startswith("-"):
        _parser(by_name).parse_args(argv or ["--help"])
        return 0
    if argv[0] not in by_name:
        hint = did_you_mean(argv[0], by_name)
        print(f"error: no command {argv[0]!r}{hint}: lightning-seq --help lists them", file=sys.stderr)
        return 2
    status: int = by_name[argv[0]].main(argv)
    return status


def _modules() -> list[ModuleType]:
    """Every file of commands/: each imports what is heavy only when it is run."""
    return [
        importlib.import_module(f"{commands.__name__}.{m.name}")
        for m in pkgutil.iter_modules(commands.__path__)
    ]


def _parser(by_name: dict[str, ModuleType]) -> ArgumentParser:
    width = max(map(len, by_name))
    lines = [f"  {name:{width}s} {module.COMMANDS[name]}" for name, module in by_name.items()]
    parser = ArgumentParser(
        prog="lightning-seq",
        usage="lightning-seq [--version] COMMAND ...",
        description="Train sequence models with PyTorch Lightning, and see what they learn.",
        epilog="\n".join(
            ["commands:", *lines, "", "`COMMAND --help` explains one; --debug shows tracebacks."]
        ),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=lightning_seq.__version__)
    return parser


if __name__ == "__main__":
    sys.exit(main())
