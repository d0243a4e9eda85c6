"""A Snakemake logger plug-in: the progress view, and targets behind `--resources`.

Snakemake imports this package before it parses its command line, which makes it the place to mend
`snakemake --cores all --resources gpu=8 all`; `command_line` says how.
"""

import sys

from snakemake_logger_plugin_leapalign.command_line import amend
from snakemake_logger_plugin_leapalign.view import LogHandler

__all__ = ["LogHandler"]

amend(sys.argv)
