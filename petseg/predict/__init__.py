"""Masks for your photos. Nothing here trains, scores, or writes to the store.

load      which model is used, and its threshold
photos    your photos: found, cut out one after another, listed in a table
cutting   one photo through the network
pictures  its mask, overlay and cut-out; the contact sheet
png       PNG files, written fast
onnx      a model as one file that needs no petseg
demo      a page to try the models with your photos
"""
