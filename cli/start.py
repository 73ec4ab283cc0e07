"""Where the `mwc` command begins: Ctrl-C counts from here on, while the rest is still imported."""

import sys


def main() -> int:
    """Run the process's command line and return its exit code; see `mwc.cli.main`."""
    try:
        from mwc.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("mwc: interrupted", file=sys.stderr)
        return 130
