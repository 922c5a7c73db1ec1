"""The pages, and the code that generates some of them."""
