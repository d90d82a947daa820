"""records: what happened, so that somebody with only the record can check it.

Never runs anything, never unpickles or imports a model, never goes to the network.
Start at `store.RunStore` (folders), `record.Record` (one run), `digests` (bytes), `models` (content), `attestation`
(what is signed of a run).

Invariants: a run folder appears whole or not at all (rename); an object's name is its sha256; `sha256sum -c SHA256SUMS`
passes in every run folder; a digest carries the name of its recipe.
"""
