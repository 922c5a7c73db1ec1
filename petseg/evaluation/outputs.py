"""What infer leaves: one folder with a fixed layout.

``test.json``        the scores that matter, by each rule, the thresholds, and answers that see no photo
``scores.json``      every score, under each rule for the border, and the run whose weights were scored
``per_image.csv``    the scores of each test photo
``breeds.csv``       the mean Dice of each breed, the lowest first
``thresholds.csv``   scores at each threshold, of validation and of test
``calibration.csv``  how often probabilities come true
``predictions.npz``  the predicted masks, and the photos' rows in the arrays
"""

HEADLINES, SCORES, PER_IMAGE, BREEDS = "test.json", "scores.json", "per_image.csv", "breeds.csv"
THRESHOLDS, CALIBRATION, PREDICTIONS = "thresholds.csv", "calibration.csv", "predictions.npz"
