"""Compile sources with the interpreter that runs this, and send the bytecode back.

Run by the builder with a locked interpreter, outside of any container; nothing of a package is imported or executed.

Protocol: one JSON object on standard input, {"archive": PATH of a zip file or folder, "members": [[member, path], …]};
on standard output for every member, in order, a signed 32-bit little-endian length and that many bytes of a .pyc file,
or the length -1 where the source does not compile. `path` is where the source will lie, and is what tracebacks show.

The files are of the "unchecked hash" kind (PEP 552): an image is read-only, so a source there cannot be newer.
"""

import importlib._bootstrap_external as external
import importlib.util
import json
import os
import struct
import sys
import warnings
import zipfile


def main():
    """Compile what standard input asks for."""
    job = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    archive = job["archive"]
    opened = None if os.path.isdir(archive) else zipfile.ZipFile(archive)
    out = sys.stdout.buffer
    warnings.simplefilter("ignore")
    for member, path in job["members"]:
        if opened is None:
            with open(os.path.join(archive, member), "rb") as stream:
                source = stream.read()
        else:
            source = opened.read(member)
        try:
            code = compile(source, path, "exec", dont_inherit=True, optimize=0)
        except Exception:
            # What the compiler cannot take is left to fail, or not, where it is imported.
            out.write(struct.pack("<i", -1))
            continue
        data = external._code_to_hash_pyc(code, importlib.util.source_hash(source), False)
        out.write(struct.pack("<i", len(data)))
        out.write(data)
    out.flush()


if __name__ == "__main__":
    main()
