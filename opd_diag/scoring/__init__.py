"""The only place with models: rollouts in, token table out."""
