"""Training queries made from the passages themselves, where nobody has asked any yet."""
