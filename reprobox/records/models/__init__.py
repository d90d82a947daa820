"""models: what a model, array or table holds, whatever file it lies in.

Never unpickles, imports or executes anything; what is read of a file is capped, and HDF5 is read in a child process.
Start at `content` (`detect_format`, `examine_content`), or `difference` (which tensors of two files differ).

Invariants: `tensors` knows no file format and the readers know no recipe; `sources` says which reader opens which
format; a digest that exists never changes: docs/formats/digest-v1.md comes first.
"""
