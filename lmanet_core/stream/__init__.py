"""One stream of images: what is segmented, what is remembered, and when it is forgotten."""
