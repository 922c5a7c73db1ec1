"""How a network learns: losses, optimizers, schedules, augmentation, the loop, and its history.

``loop.fit`` yields a record an epoch and writes nothing: the store and MLflow do not come in.
"""
