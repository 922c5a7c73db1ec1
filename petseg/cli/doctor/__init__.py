"""``petseg doctor``: is everything there and whole; with ``--data``, what a data set has.

command reads the options; checks has a function a check, and findings runs them; data looks at photos.
"""

from petseg.cli.doctor.command import doctor as doctor
