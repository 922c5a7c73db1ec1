"""The report page: one file with all there is to see of a run, for a browser that has no network.

content.py says what the page shows, as plain values; notes.py what the numbers say of failures; pictures.py
packs photos and masks; page.py puts them together with page.html, page.css, charts.js and page.js.
"""
