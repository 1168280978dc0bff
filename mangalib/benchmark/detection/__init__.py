"""Change detection: from samples to series, baselines, charts and severities."""
