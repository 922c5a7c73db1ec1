"""Feeds odd inputs to each parser: valid samples that are mutated by a seed, so that they can be made again.

mutation  changes the bytes, the lines or the values of a sample
parsers   each parser of files and requests, with its valid samples
records   the same for the records of the store and of the pipeline
running   runs each parser in a process of limited memory, and makes the table of the finds

``make fuzz`` gives each parser 10,000 inputs; ``python -m tests.support.fuzz --help`` shows the options.
"""
