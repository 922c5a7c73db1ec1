"""The networks, their weights on disk, and a predictor: from photos to the probability of pet.

Nothing here learns or scores: losses, metrics and the store do not come in.
"""
