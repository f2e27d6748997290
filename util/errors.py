"""One exception for everything a user can put right, and the one place that prints it."""

import functools
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Bad input: the message is one line that names the file and says what was expected."""


def exit_on_input_error(main: Callable[..., int | None]) -> Callable[..., None]:
    """Wrap a program's ``main``: an `InputError` becomes one line on stderr and exit code 2, Ctrl-C one and 130.

    Any other return value than 0 or None becomes the exit code.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs) -> None:
        try:
            code = main(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)
        if code:
            sys.exit(code)

    return wrapper
