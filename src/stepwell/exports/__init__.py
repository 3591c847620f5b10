"""From a model to what other programs load: graphs, int8, the model card, the Hub; and which way is fastest here."""
