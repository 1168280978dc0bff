"""The benchmark: a workload, a runner, a store of what was measured, and a detector that says what changed."""
