"""How a model is run fast: engines, number types, the race between them."""
