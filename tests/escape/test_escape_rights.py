"""User namespaces, ids and capabilities: the probes of probes/rights.py, each in the default sandbox, and its control."""

from probed import made_of

globals().update(made_of("rights"))
