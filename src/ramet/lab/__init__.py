"""Experiments with clone, run live on the caller's own kernel, with the evidence shown."""
