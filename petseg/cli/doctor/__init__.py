"""``petseg doctor`` checks that everything is present and undamaged; with ``--data`` it checks a data set.

``command`` reads the options, ``checks`` has one function for each check, ``findings`` runs the checks, and
``data`` checks photos and masks.
"""

from petseg.cli.doctor.command import doctor as doctor
