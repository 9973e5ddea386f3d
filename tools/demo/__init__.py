"""How the defaults of the demo vectors were chosen."""
