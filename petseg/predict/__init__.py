"""Makes masks for your photos. Nothing here trains, scores, or writes to the store.

load      finds and loads the model, with its thresholds
photos    finds your photos, cuts them out, and lists them in a table
cutting   cuts out one photo
pictures  draws a photo's overlay and cut-out, and the contact sheet
png       writes PNG files fast
onnx      exports a model to one file that needs no petseg
demo      a page to try the models with your photos
"""
