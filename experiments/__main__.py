"""`latentmix`, and `python -m latentmix.experiments`: the command line."""

import signal
import sys


def main() -> int:
    """Run the command line on the words of the process; the exit code.

    Before and after the command, while nothing is to be cleaned up, an interruption ends the process without words.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from latentmix.experiments.cli import main

    return main()


if __name__ == "__main__":
    if not sys.flags.safe_path:
        from contextlib import suppress
        from os import getcwd

        with suppress(OSError):
            if sys.path[:1] in ([""], [getcwd()]):
                del sys.path[0]  # the working folder, put first by `python -m`, where its files would shadow modules
    sys.exit(main())
