"""petseg: reproducible training of networks that cut pets out of photos."""
