"""What a run did and found, as facts, as a page, as JSON."""
