"""A page to try the models with your own photos. It is served to this machine only.

models  the networks that the page offers
app     the API of the page: the models, a photo's probability, its pictures
server  serves the page at one port of 127.0.0.1, until Ctrl-C
page.html, page.css, page.js, masks.js  the page
"""
