"""The store of runs, which only grows: read, written, proved, compared. No MLflow comes in."""
