"""The explorer: see and tune the negatives of your own images in the browser. `make explorer` starts it."""
