"""What knows nothing of pets: files, the project, progress, text. No torch, no MLflow, no params."""
