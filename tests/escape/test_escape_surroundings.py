"""What a process inherits: the probes of probes/surroundings.py, each in the default sandbox, and its control."""

from probed import made_of

globals().update(made_of("surroundings"))
