"""The exception for everything that the user can put right, and the one place that turns errors into messages."""

import argparse
import errno
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

MAX_LENGTH = 1000  # of a message, in characters
# What libraries say when memory has run out, besides MemoryError: PyTorch on every device, oneDNN, OpenCV, C++, libc,
# and its loader when PyTorch is imported.
NO_MEMORY = (
    *("out of memory", "DefaultCPUAllocator", "could not create a memory object", "Failed to allocate"),
    *("Insufficient memory", "bad_alloc", os.strerror(errno.ENOMEM), "failed to map segment"),
)


class InputError(ValueError):
    """Bad input. The message is one line that names the file or flag and says what was expected.

    Whatever it quotes: line breaks become escapes, and the middle of a very long message is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Parser(argparse.ArgumentParser):
    """Raises `InputError` for faulty flags. ``--help`` keeps the line breaks of its texts.

    The first paragraph of ``doc``, usually a program's docstring, is shown before the flags, the rest and ``epilog``
    behind them.
    """

    def __init__(self, doc: str | None = None, epilog: str = "", **options: Any) -> None:
        description, _, rest = (doc or "").partition("\n\n")
        style = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, epilog=rest + epilog, formatter_class=style, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = sys.argv[1:] if args is None else list(args)
        refuse_empty(words)
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def refuse_empty(words: Sequence[str]) -> None:
    """Raises `InputError` for an empty argument of a program, which an unset variable of the shell leaves behind."""
    for before, word in zip(["", *words], words, strict=False):
        if not word or re.fullmatch("--[^=]+=", word):
            flag = word or (before if before.startswith("-") else "an argument")
            raise InputError(f"{flag}: has an empty value; expected another")


def one_line(message: str) -> str:
    """``message`` with escapes for control characters and what is not UTF-8, and without its middle if very long."""
    if len(message) > MAX_LENGTH:
        kept = MAX_LENGTH // 2 - 10  # so that a prefix does not make it too long again
        message = f"{message[:kept]} … {message[-kept:]}"
    return re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], message)


def exit_on_input_error(main: Callable[..., int | None]) -> Callable[..., None]:
    """Wrap a program's ``main`` so that its errors end in one line on stderr and an exit code.

    `InputError` and whatever the operating system refuses: 2; out of memory: 1; Ctrl-C: 130; a closed pipe
    (``| head``): 141, without a message. A number that ``main`` returns is the exit code. Characters that the terminal
    cannot show are printed as escapes.
    """

    @functools.wraps(main)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        message = None
        try:
            try:
                code = main(*args, **kwargs)
            finally:
                if sys.stdout:  # fails here, if it does, and not when the interpreter exits
                    sys.stdout.flush()  # not `print`, which fails on a terminal that is gone even for no text
        except InputError as error:
            code, message = 2, f"error: {error}"
        except KeyboardInterrupt:
            code, message = 130, "interrupted"
        except BrokenPipeError:
            code = 141
            _discard_output()
        except OSError as error:
            code, message = 2, f"error: {describe(error)}"
            _discard_output()
        except UnicodeEncodeError as error:  # of a file name that is not UTF-8, in a format that needs it
            code, message = 2, f"error: {error.object!r:.200} cannot be written ({error.reason}); expected UTF-8"
        except Exception as error:
            if is_out_of_memory(error):
                code, message = 1, "error: out of memory"
            elif str(error).startswith("Symlink loop"):  # of `Path.resolve` before Python 3.13
                code, message = 2, f"error: {error}"
            else:
                raise
        if message:
            print_error(message)
        if code:
            sys.exit(code)

    return wrapper


def print_error(message: str) -> None:
    """Print one line on stderr, see `one_line`."""
    print(one_line(message), file=sys.stderr)


def describe(error: OSError) -> str:
    """An error of the file system in one line."""
    if error.errno in (errno.EMFILE, errno.ENFILE):  # wherever one file more was needed
        return f"{error.strerror}; expected a higher limit (ulimit -n)"
    what = "cannot be written" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "cannot be used"
    name = error.filename or ("current folder" if error.errno == errno.ENOENT else "output")
    return f"{name} {what} ({error.strerror or error})"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whatever device."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


def _discard_output() -> None:
    """Send what stdout still holds to the null device, or Python would try again at exit, fail and complain."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
