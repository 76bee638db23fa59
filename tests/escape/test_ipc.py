"""System V, message queues, keyrings and sockets: the probes of probes/ipc.py, each in the default sandbox, and its control."""

from probed import made_of

globals().update(made_of("ipc"))
