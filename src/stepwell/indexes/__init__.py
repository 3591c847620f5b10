"""Index directories: passages, their vectors in some precision, and the model, in one folder that serves by itself."""
