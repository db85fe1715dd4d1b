"""Pictures of what a swap does: the contact sheet and the panels it is made of."""
