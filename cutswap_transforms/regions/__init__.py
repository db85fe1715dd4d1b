"""Images -> salient regions: cells, clusters, and the region of each level."""
