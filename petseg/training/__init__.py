"""Train a network: losses, optimizers, schedules, augmentation, the training loop, and its history.

``loop.fit`` yields one record per epoch and writes nothing: the store and MLflow may not come in.
"""
