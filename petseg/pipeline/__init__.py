"""The code around every stage: checks of its params and paths, its entry in dvc.yaml, the hash of its code.

Of petseg, this package imports ``core``, ``errors`` and ``params`` only. Photos, networks and the store may
not come in.
"""
