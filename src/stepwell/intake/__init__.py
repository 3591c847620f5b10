"""From what lies in a folder to a collection and a first recipe."""
