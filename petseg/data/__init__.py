"""From a source to batches: fetch or pack archives, read them safely, preprocess, split, map arrays.

``download`` and ``own_folder`` put archives in place, ``preprocess`` makes arrays of them, and ``batches``
makes tensors of those; it is the only module here that needs torch. ``inspection`` looks at a data set
before.
"""
