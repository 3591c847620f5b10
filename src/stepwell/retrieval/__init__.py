"""Finding passages: BM25, vectors, exact search, fusion, runs."""
