"""A Snakemake logger plug-in: the progress view, and a forgiving command line.

Snakemake imports this package before it parses its command line, which makes it the place to mend
`snakemake --cores all --resources gpu=8 all` (see `command_line`) and Ctrl-C (see `interrupt`).
"""

import sys

from snakemake_logger_plugin_leapalign import command_line, interrupt
from snakemake_logger_plugin_leapalign.view import LogHandler

__all__ = ["LogHandler"]

if command_line.typed(sys.argv):
    command_line.check_profile(sys.argv[1:])
    sys.argv[1:] = command_line.give_back_targets(sys.argv[1:])
    interrupt.install()
