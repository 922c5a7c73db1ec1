"""The store of runs. ``layout`` says what lies in a run's folder and how its key is made.

``writer`` writes a run while it is trained; ``run`` reads one, ``runs`` all; ``records`` and ``typed`` check
what is read. ``ledger`` logs each change, and locks the store for it; ``chain`` reads the ledger. The others
use these: adopt, keep, heal, prune, champion, verify, identify, reproduce, compare, card. This package does
not import MLflow.
"""
