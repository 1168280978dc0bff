"""What `make benchmark` runs: one table an item, ours beside what one would otherwise use, in one run on this machine."""
