"""From archives to batches: fetch, read safely, pack to arrays, augment."""
