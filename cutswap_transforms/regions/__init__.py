"""Images -> salient regions: cells, clusters, the region of each level, and the stores that keep it."""
