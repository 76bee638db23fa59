"""Mounts, chroots, links and the host's files: the probes of probes/files.py, each in the default sandbox, and its control."""

from probed import made_of

globals().update(made_of("files"))
