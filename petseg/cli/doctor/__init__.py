"""``petseg doctor`` checks that everything is there and whole; with ``--data`` it checks a data set.

``command`` reads the options, ``checks`` has one function for each check, ``findings`` runs them, and
``data`` looks at photos and masks.
"""

from petseg.cli.doctor.command import doctor as doctor
