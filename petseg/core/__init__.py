"""What knows nothing of pets: files, locks, the project, progress, text, colours, work on all cores.

It imports petseg.errors and nothing else of petseg: no params, no torch, no MLflow.
"""
