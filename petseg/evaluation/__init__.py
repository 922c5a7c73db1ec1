"""How good masks are: scores under each boundary rule, and what probabilities are worth."""
