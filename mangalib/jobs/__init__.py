"""Notebooks run headless: by hand, on a schedule, over a grid; what ran and what it found."""
