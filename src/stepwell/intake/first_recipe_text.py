"""The text of a first recipe; what stands in braces is filled in."""

HEAD = """\
# A recipe for stepwell: {passages} passages, {queries} queries.
{synthetic}#   stepwell plan  this file   what would be done, and what it costs on this machine
#   stepwell run   this file   do it; once stopped, the same command goes on
# Every key, its default and its meaning: docs/recipe.md.

name: {name}
seed: 13

collection:
  path: {path}
  train: {train}
{splits}
  dev: auto
  test: auto
  dev_queries: 500          # enough to steer by; more costs time

# Where texts are cut: 19 of 20 of yours should fit (256 at most). Time grows with these.
tokens:
  query: {query}
  passage: {passage}
  pair: {pair}

# The model that you get: the embeddings and the first layers of this one.
student:
  from: {student}
  layers: {layers}
"""

LADDER = """
# Ever stronger ones. Any encoder or re-ranker can be named; without `train` it is taken as it is: with few
# training queries that is often best for a dual encoder.
teachers:
  dual:
    kind: dual-encoder
    from: {base}
  small-cross:
    kind: cross-encoder
    from: {base}
    layers: {small}
    imitate: dual           # learns faster when it first copies the scores of this one
    train:
      imitate_epochs: 1
      epochs: {rerank_epochs}
  cross:
    kind: cross-encoder
    from: {base}
    imitate: dual
    train:
      imitate_epochs: 1
      epochs: {rerank_epochs}

# Which passages stand beside the right ones: drawn from ranks 1 to 50, near-duplicates left out.
mining:
  depth: 100
  last: 50
  pool: 24                  # from which each epoch draws its own

# One step at a time. A rung without anything to teach is skipped, one that makes dev worse is taken back.
ladder:
  - teacher: dual           # all vectors of its space: cheap, needs no labels
    loss: embedding
    epochs: {epochs}
    lr: {lr}
    batch: {batch}
    # more_passages: FILE   # further texts without labels, one a line: they teach here and are never searched
  - teacher: small-cross    # its order of each query's candidates
    loss: candidates
    gamma: 1.0              # keep what was learned before
    lr: 5e-5
  - teacher: cross
    loss: candidates
    gamma: 1.0
    lr: 5e-5

# Then only the queries that the last teacher gets right and the student does not.
refine:
  rounds: {rounds}                 # at most; it stops when dev stops improving
  lr: 1e-5

# What the final table trains beside it: contrastive only, and straight from the strongest teacher.
proof: quick
"""

SMALL_LADDER = """
# Any encoder can be named; without `train` it is taken as it is.
teachers:
  dual:
    kind: dual-encoder
    from: {base}

# Which passages stand beside the right ones: drawn from ranks 1 to 30, near-duplicates left out.
mining:
  depth: 50
  last: 30

# {why}
ladder:
  - teacher: dual           # all vectors of its space: cheap, needs no labels
    loss: embedding
    epochs: {epochs}
    lr: {lr}
    batch: {batch}
  - teacher: dual           # its order of all passages of a batch
    loss: in-batch
    gamma: 0
    hold: 1.0               # stay near its vectors; 0 for a teacher whose vectors are wider than the student's
    epochs: 2
    lr: 1e-4
    batch: 16

# It needs a cross-encoder.
refine:
  rounds: 0

# What the final table trains beside it: contrastive only, and straight from the teacher.
proof: quick
"""

SYNTHETIC = """\
# The training queries are synthetic: made from the passages, out of which they were taken. They never test; real
# ones do, as qrels/test.tsv (with their texts in queries.jsonl).
"""
WHOLE = """\
# To search your whole texts with the finished model:
#   stepwell search runs/NAME/model "a question" --collection {origin}
"""

FEW = (
    "Few queries teach a cross-encoder next to nothing, so the vectors of a dual encoder are what is learned; with\n"
    "# thousands of queries, cross-encoders are worth a rung each (docs/how-it-works/ladder.md)."
)
MADE = (
    "Synthetic queries are no ground for a cross-encoder, so the vectors of a dual encoder are what is learned.\n"
    "# A re-ranker that is strong on your texts can be added as a teacher (docs/how-it-works/ladder.md)."
)
