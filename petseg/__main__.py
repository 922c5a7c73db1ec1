"""The entry point of ``python -m petseg`` and of the command ``petseg``."""

from petseg.cli import main

if __name__ == "__main__":
    main()
