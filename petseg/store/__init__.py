"""The store of runs, which only grows. ``layout`` says what lies in a run's folder and how its key is made.

``writer`` writes a run while it is trained; ``run`` reads it; ``records`` are what proves it. The others
stand on these: verify, identify, adopt, reproduce, compare, champion, card. MLflow does not come in.
"""
