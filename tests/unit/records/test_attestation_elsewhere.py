"""What libraries of others say of our attestations: their own verification, and the published schemas."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from reprobox.records.attestation import render_attestation
from reprobox.records.dsse import parse_envelope, render_envelope
from reprobox.records.record import Record
from tests.unit.records.test_attestation import EQUAL, KEY, OTHER, UNEQUAL, make_evaluation, make_training, sha_of

RECORDS = [make_training(), make_evaluation(EQUAL, UNEQUAL), make_evaluation()]


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("key", [KEY, OTHER])
def test_securesystemslib_verifies_the_envelope(record: Record, key: Any) -> None:
    """The library of in-toto and TUF accepts it by the right key, and refuses it altered or by another."""
    dsse = pytest.importorskip("securesystemslib.dsse", reason="securesystemslib is not installed")
    from cryptography.hazmat.primitives.serialization import load_der_public_key
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    def read(which: Any) -> Any:
        return SSlibKey.from_crypto(load_der_public_key(which.public.der), keyid=key.public.keyid)

    data = render_attestation(record, sha_of(record), key)
    envelope = dsse.Envelope.from_dict(json.loads(data))
    assert list(envelope.verify([read(key)], 1)) == [key.public.keyid]
    with pytest.raises(VerificationError):
        envelope.verify([read(OTHER if key is KEY else KEY)], 1)
    ours = parse_envelope(data)
    altered = render_envelope(replace(ours, payload=ours.payload.replace(b"record.json", b"record.jsom")))
    with pytest.raises(VerificationError):
        dsse.Envelope.from_dict(json.loads(altered)).verify([read(key)], 1)


def _without_empty(value: Any) -> Any:
    """A field that is empty is one that is not there, and protobuf leaves such out."""
    if isinstance(value, dict):
        return {key: _without_empty(item) for key, item in value.items() if item not in ([], {}, "")}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("record", RECORDS)
def test_statements_are_of_the_published_schemas(record: Record) -> None:
    """in-toto's own bindings read statement and predicate with no field unknown, and give the same back."""
    pytest.importorskip("in_toto_attestation", reason="in-toto-attestation is not installed")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
    from in_toto_attestation.v1 import resource_descriptor, statement, statement_pb2

    claimed = json.loads(parse_envelope(render_attestation(record, sha_of(record), KEY)).payload)
    parsed = json_format.ParseDict(claimed, statement_pb2.Statement())
    statement.Statement.copy_from_pb(parsed).validate()
    schema = test_result_pb2.TestResult() if record.draft["of"] else provenance_pb2.Provenance()
    predicate = json_format.ParseDict(claimed["predicate"], schema)
    assert _without_empty(json_format.MessageToDict(predicate)) == _without_empty(claimed["predicate"])
    described = (
        list(predicate.configuration)
        if record.draft["of"]
        else [*predicate.build_definition.resolved_dependencies, *predicate.run_details.byproducts]
    )
    assert described
    for entry in (*parsed.subject, *described):
        resource_descriptor.ResourceDescriptor.copy_from_pb(entry).validate()
