"""The program `fedafd`: guards against Ctrl-C, then loads fedafd.cli.main, which takes its first half second.

`fedafd health`, which health checks run all the time, does without it.

Nothing but sys is imported before the guard.
"""

import sys

__all__ = ["main"]

_INTERRUPTED = 130
"""What a shell calls a program that Ctrl-C ended: 128 and the signal's number."""


def main() -> None:
    """Run the command line; Ctrl-C at any time ends it without a stack trace."""
    try:
        if sys.argv[1:2] == ["health"]:
            from fedafd.cli.health_alone import main as run
        else:
            from fedafd.cli.main import main as run
        run()
    except KeyboardInterrupt:
        sys.stderr.write("Stopped.\n")
        raise SystemExit(_INTERRUPTED) from None


if __name__ == "__main__":
    main()
