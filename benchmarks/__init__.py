"""Benchmarks: they measure side by side, print and record, and never fail."""
