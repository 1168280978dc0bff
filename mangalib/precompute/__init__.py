"""Answers made before they are asked for: what comes next, what is worth making, and a cache that does not lie."""
