"""The networks, their weights on disk, and a predictor that gives each pixel's probability of being pet.

Nothing here trains or scores: losses, metrics and the store may not come in.
"""
