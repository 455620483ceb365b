"""From rows of hidden states of both models to the numbers of the token table."""
