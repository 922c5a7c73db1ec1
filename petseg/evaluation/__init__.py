"""How good masks are: metrics, scores under each boundary rule, thresholds, and what infer does and leaves.

Nothing here trains, and no run of the store is known.
"""
