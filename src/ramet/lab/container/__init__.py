"""What a container is made of, built step by step and looked at from inside after each: `ramet lab container`.

build.py builds one; escape.py holds chroot beside pivot_root; veth.py joins two network namespaces; kernel.py says what
a virtual machine would isolate and this does not. Each returns plain data. The scripts in inside/ run inside.
"""
