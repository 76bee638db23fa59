"""Interfaces of the kernel: the probes of probes/kernel.py, each in the default sandbox, and its control."""

from probed import made_of

globals().update(made_of("kernel"))
