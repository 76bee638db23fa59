"""Descriptors, working directories and magic links: the probes of probes/descriptors.py, each in the default sandbox, and its control."""

from probed import made_of

globals().update(made_of("descriptors"))
