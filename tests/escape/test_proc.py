"""/proc and /sys: the probes of probes/proc.py, each in the default sandbox, and its control."""

from probed import made_of

globals().update(made_of("proc"))
