"""What this machine can do. The only code that asks /proc, /sys and the like; answers with one frozen `Facts`."""
