"""The store of runs: write, read, verify, repair, compare and delete them.

``layout`` defines the files of a run and its key. ``writer`` writes a run during the training; ``run`` reads
one run, and ``runs`` reads all of them; ``records`` and ``typed`` check what is read. ``ledger`` logs each
change, and locks the store for it; ``chain`` reads the ledger. The other modules use these: adopt, keep,
heal, prune, champion, verify, identify, reproduce, compare and card. MLflow, pages and commands may not come
in.
"""
