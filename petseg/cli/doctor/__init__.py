"""``petseg doctor``: is everything there and whole; with ``--data``, what a data set has."""
