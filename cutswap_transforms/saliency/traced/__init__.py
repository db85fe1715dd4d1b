"""LayerCAM of any net: find its levels and trace its gradient once; no autograd engine at call time."""
