"""The files that infer writes: one folder with a fixed layout.

``test.json``        the main scores under each boundary rule, the thresholds, and baselines that see no photo
``scores.json``      every score under each boundary rule, and the run whose weights were scored
``per_image.csv``    the scores of each test photo
``breeds.csv``       the mean Dice of each breed, the lowest first
``thresholds.csv``   scores at each threshold, of validation and of test
``calibration.csv``  the share of pixels that are pet, for each range of probabilities
``predictions.npz``  the predicted masks, and the photos' rows in the arrays
"""

HEADLINES, SCORES, PER_IMAGE, BREEDS = "test.json", "scores.json", "per_image.csv", "breeds.csv"
THRESHOLDS, CALIBRATION, PREDICTIONS = "thresholds.csv", "calibration.csv", "predictions.npz"
