"""Jobs without a ladder: encode, score and mine, here or on a Ray cluster."""
