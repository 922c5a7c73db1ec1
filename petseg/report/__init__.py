"""Draws figures, and makes the report page: one file about a run, for a browser without a network.

``latest`` chooses the run, and ``results`` reads its files, with ``reading``. ``figures`` draws numbers, and
``mask_figures`` draws photos and masks. For the page, ``content`` has the plain values, ``notes`` has texts
about failures, and ``pictures`` makes data URIs of photos and masks; ``page`` puts them together with
page.html, page.css, charts.js and page.js.
"""
