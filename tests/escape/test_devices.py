"""Terminals and devices: the probes of probes/devices.py, each in the default sandbox, and its control."""

from probed import made_of

globals().update(made_of("devices"))
