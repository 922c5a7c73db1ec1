"""Figures of speed and memory: ``python -m benchmarks`` (or ``make bench``) prints them as a table."""
