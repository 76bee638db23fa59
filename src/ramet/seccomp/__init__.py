"""Filters for system calls: the default profile, compiling (libseccomp), what a filter does with a call, Docker's profiles.

profile   which calls payloads may make, and why not the others
library   libseccomp, as far as it is needed
filters   from a `ramet.spec.seccomp.Seccomp` to the programs that the kernel runs; cached, the default one shipped
explain   what happens with a call, and why
oci       profiles in the form of Docker and the OCI runtime specification
"""
