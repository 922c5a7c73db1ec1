"""What every stage has around it, what dvc.yaml says, and the hash of the code. Only core comes in."""
