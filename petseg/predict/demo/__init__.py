"""A page to try the models with your own photos. It is served to this machine alone.

models  which networks there are, and which of them are in memory
app     what the page asks: the models, a photo's probability, its pictures
server  127.0.0.1 and one port, until Ctrl-C
page.html, page.css, page.js  the page
"""
