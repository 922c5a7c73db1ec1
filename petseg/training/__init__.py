"""How a network learns: losses, optimizers, augmentation, the loop. No store and no MLflow come in."""
