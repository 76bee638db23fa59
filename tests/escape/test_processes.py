"""Signals, tracing, and other ways into a process: the probes of probes/processes.py, each in the default sandbox, and its control."""

from probed import made_of

globals().update(made_of("processes"))
