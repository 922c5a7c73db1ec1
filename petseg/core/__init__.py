"""General helpers that know nothing about pets: files, locks, git, progress, text, JSON, YAML, local servers.

Of petseg, this package imports ``petseg.errors`` only. Params, torch and MLflow may not come in.
"""
