"""``python -m petseg``, and the command ``petseg``."""

from petseg.cli import main

if __name__ == "__main__":
    main()
