"""What this machine can do: the only code that asks /proc, /sys and the like."""
