"""LayerCAM of any net: where its levels are, and its gradient traced once, without the autograd engine at call time."""
