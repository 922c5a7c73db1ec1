"""What every stage has around it, what dvc.yaml says of one, and the hash of its code.

It knows nothing of photos, networks or the store.
"""
