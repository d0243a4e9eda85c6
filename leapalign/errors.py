"""Errors that a user can mend, and how command lines report them."""

from __future__ import annotations

import errno
import functools
import sys
import traceback
from collections.abc import Callable

INTERRUPTED = 130


class UserError(Exception):
    """A mistake in the user's settings, files or machine.

    The message names the file, the key or line, and the fix; it is all that the user sees.
    """


def raised_at(error: BaseException, file: str | None = None) -> str:
    """Where an error was raised: the innermost line in `file` if there is one, else of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    frame = ([frame for frame in frames if frame.filename == file] or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"


def main_guard(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command line's `main`: a `UserError` prints one line and exits 1, Ctrl-C exits 130."""

    @functools.wraps(main)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except UserError as error:
            sys.stderr.write(f"error: {error}\n")
            raise SystemExit(1) from None
        except OSError as error:
            if error.filename is None and error.errno is None:
                raise
            sys.stderr.write(
                f"error: {error.strerror}: {error.filename or 'output'}; {remedy(error)}\n"
            )
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            sys.stderr.write(
                "interrupted: what was finished is kept; run the same command again to go on\n"
            )
            raise SystemExit(INTERRUPTED) from None

    return guarded


def remedy(error: OSError) -> str:
    """The fix for an operating-system error, as the end of a sentence."""
    space = "free some disk space and run again; finished work is kept"
    folder = "set `results:` in config.yaml to a writable folder"
    return {
        errno.ENOSPC: space,
        errno.EDQUOT: space,
        errno.EFBIG: "raise the limit on file sizes and run again; finished work is kept",
        errno.EROFS: folder,
        errno.EACCES: folder,
        errno.EPERM: folder,
        errno.ENOENT: "check the path",
        errno.ENOTDIR: "check the path",
    }.get(error.errno or 0, "mend that and run again; finished work is kept")
