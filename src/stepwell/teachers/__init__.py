"""Teachers behind one protocol, and the store of their scores."""
