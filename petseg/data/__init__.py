"""From a data source to batches: fetch or pack archives, read them safely, preprocess, split, map arrays.

``download`` and ``own_folder`` put archives in place, ``preprocess`` turns them into arrays, and ``batches``
turns arrays into tensors. ``inspection`` examines a data set before it is used. Networks, metrics and the
store may not come in, and torch only into ``batches``.
"""
