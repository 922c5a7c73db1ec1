"""Evaluate masks: metrics, scores under each boundary rule, thresholds, and the work and the files of infer.

Nothing here trains or knows the runs of the store: ``training``, ``store`` and MLflow may not come in.
"""
