"""Feeds each parser inputs that nobody meant: valid samples, mutated by a seed, so that all come again.

mutation  what is done to a sample: its bytes, its lines, its values
parsers   each parser, with valid samples, and what is made of a mutated one
running   a process of limited memory for each parser, and the table of what was found

``make fuzz`` gives each parser 10,000 inputs; ``python -m tests.support.fuzz --help`` has the options.
"""
