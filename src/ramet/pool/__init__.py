"""Warm, sandboxed interpreters: a zygote that has imported what is needed, and copies of it in sandboxes of their own."""
