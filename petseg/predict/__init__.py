"""Masks for your photos: which model, the pictures, ONNX, the demo page. Nothing trains or scores here."""
