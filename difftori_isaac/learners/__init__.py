"""How the parameters change."""
