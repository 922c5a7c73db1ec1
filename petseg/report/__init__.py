"""Figures, and the report page: one file with all there is to see of a run, for a browser without a network.

``results`` has what is shown, and ``latest`` chooses the run; ``figures`` draws numbers and
``mask_figures`` photos and masks. Of the page, ``content`` has the plain values, ``notes`` what the numbers
say of failures, ``pictures`` photos and masks as data URIs; ``page`` puts them together with page.html,
page.css, charts.js and page.js.
"""
