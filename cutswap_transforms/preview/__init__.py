"""Pictures of a swap: the contact sheet and its panels."""
