"""What can be asked and judged: a finished run, an index, a model, a run file."""
