"""Measurements of speed, memory and quality. ``make bench`` prints most of them as Markdown tables."""
