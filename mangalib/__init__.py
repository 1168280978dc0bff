"""MangaAssist's streaming and latency laboratory."""
