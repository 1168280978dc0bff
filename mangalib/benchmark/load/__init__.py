"""The load of a benchmark run: a workload, and the runner that asks it."""
