"""What is stated of a run, and that nothing but a whole statement of exactly this run is accepted."""

from __future__ import annotations

import base64
import copy
import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprobox.errors import RecordError
from reprobox.records.attestation import (
    name_of,
    parse_attestation,
    render_attestation,
)
from reprobox.records.digests import canonical_json, digest_bytes
from reprobox.records.dsse import parse_envelope, render_envelope, sign_envelope
from reprobox.records.record import Output, Record, parse_record, render_record
from reprobox.records.signing_keys import make_private_key, parse_private_key
from reprobox.records.statements import (
    PAYLOAD_TYPE,
    PROVENANCE,
    TEST_RESULT,
    find_claim_problem,
    render_statement,
    require_attestable,
)
from tests.conftest import read_golden
from tests.unit.records.test_record_format import make_record

KEY = make_private_key("ed25519")
OTHER = make_private_key("ecdsa-p256")
EQUAL = {"metric": "accuracy", "trained": 0.5, "evaluated": 0.5, "equal": True, "difference": 0.0}
UNEQUAL = {"metric": "loss", "trained": 0.5, "evaluated": 0.25, "equal": False, "difference": -0.25}


def row(path: str, digit: str) -> dict[str, Any]:
    return {"path": path, "sha256": digit * 64, "size_bytes": 1}


def make_training(**more: Any) -> Record:
    """A record with one of everything."""
    record = make_record(
        outputs=(
            Output(path="model.keras", sha256="a" * 64, size_bytes=3, format="keras", content=("r", "b" * 64)),
            Output(path="sub/ü.json", sha256="c" * 64, size_bytes=3, format=None, content=None),
        ),
        **more,
    )
    code = [row("train.py", "d"), {"path": "link", "sha256": "", "size_bytes": 0, "link": "train.py"}]
    draft = record.draft | {
        "environment": record.draft["environment"] | {"lock_sha256": "e" * 64},
        "code": {"files": code, "git": {"commit": "f" * 40, "dirty": True}, "left_out": []},
        "inputs": [row("data/x.csv", "1"), row("/srv/y.csv", "2")],
        "settings": record.draft["settings"] | {"memory_bytes": None, "environment": {"TOKEN": "secret"}},
        "reprobox": {"version": "0.1", "guest": "9" * 64},
    }
    return replace(record, draft=draft)


def make_evaluation(*comparison: dict[str, Any], **more: Any) -> Record:
    record = make_training(comparison=comparison, **more)
    given = [row("model.keras", "a"), row("scaler.joblib", "3")]
    return replace(record, draft=record.draft | {"kind": "eval", "of": "20260101T000000-aaaaaa", "given": given})


def sha_of(record: Record) -> Any:
    return digest_bytes(render_record(record))


def state(record: Record) -> dict[str, Any]:
    return render_statement(record, sha_of(record))


def accept(data: bytes, record: Record, *, file: str | None = None, key: Any = KEY) -> Any:
    name = file or name_of(state(record)["predicateType"], key.public.keyid)
    return parse_attestation(data, file=name, record=record, sha256=sha_of(record), keys=(key.public,))


def sign(statement: Any, *, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Sign whatever somebody with the right key may have signed."""
    return render_envelope(sign_envelope(canonical_json(statement), payload_type, KEY))


def test_what_provenance_says() -> None:
    """Subjects are the record and all outputs; parameters, dependencies and byproducts are those of the record."""
    record = make_training()
    statement = state(record)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [
        {"name": "record.json", "digest": {"sha256": sha_of(record)}},
        {"name": "outputs/model.keras", "digest": {"sha256": "a" * 64}},
        {"name": "outputs/sub/ü.json", "digest": {"sha256": "c" * 64}},
    ]
    definition, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert definition["externalParameters"] == {
        "command": ["train.py"], "workingDirectory": ".", "environment": "e", "determinism": "strict", "seed": 0,
        "threads": 2, "variables": ["TOKEN"],
    }  # fmt: skip
    assert definition["resolvedDependencies"] == [
        {
            "name": "image", "digest": {"sha256": f"{2:064}"}, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "annotations": {"lockDigest": f"sha256:{1:064}"},
        },
        {"name": "reprobox.lock", "digest": {"sha256": "e" * 64}},
        {"name": "source", "digest": {"gitCommit": "f" * 40}, "annotations": {"dirty": True}},
        {"name": "code/train.py", "digest": {"sha256": "d" * 64}},
        {"name": "code/link", "content": base64.b64encode(b"train.py").decode(), "mediaType": "inode/symlink"},
        {"name": "inputs/data/x.csv", "digest": {"sha256": "1" * 64}},
        {"name": "inputs//srv/y.csv", "digest": {"sha256": "2" * 64}},
    ]  # fmt: skip
    assert details["metadata"] == {
        "invocationId": record.run, "startedOn": "2026-01-02T03:04:05Z", "finishedOn": "2026-01-02T03:04:06Z",
    }  # fmt: skip
    assert [entry["name"] for entry in details["byproducts"]] == ["stderr", "stdout", "trail.jsonl"]
    assert "secret" not in json.dumps(statement)
    assert not set(definition["externalParameters"]) & set(definition["internalParameters"])


def finding(severity: str) -> dict[str, Any]:
    """Something that an evaluation was seen to do."""
    return {
        "factor": "refit:StandardScaler",
        "severity": severity,
        "sentence": "fits it again",
        "where": "evaluate.py:3",
    }


@pytest.mark.parametrize(
    ("rows", "more", "result"),
    [((EQUAL,), {}, "PASSED"), ((EQUAL,), {"tainted": ("why",)}, "WARNED"), ((EQUAL, UNEQUAL), {}, "FAILED"), ((), {}, "FAILED"),
     ((EQUAL,), {"status": "failed", "exit_code": 1}, "FAILED"), ((), {"status": "interrupted", "exit_code": None}, "FAILED"),
     ((EQUAL, UNEQUAL), {"tainted": ("why",)}, "FAILED"), ((EQUAL,), {"findings": (finding("error"),)}, "FAILED"),
     ((EQUAL,), {"findings": (finding("note"),)}, "PASSED")],
)  # fmt: skip
def test_what_a_test_result_says(rows: tuple[dict[str, Any], ...], more: dict[str, Any], result: str) -> None:
    """PASSED only where it completed, something was compared, all of it is equal, and nothing is the matter."""
    record = make_evaluation(*rows, **more)
    statement = state(record)
    predicate = statement["predicate"]
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert predicate["result"] == result
    wrong = [entry["factor"] for entry in record.findings if entry["severity"] == "error"]
    assert predicate["failedTests"] == [entry["metric"] for entry in rows if not entry["equal"]] + wrong
    both = predicate["passedTests"] + predicate["warnedTests"]
    assert both == [entry["metric"] for entry in rows if entry["equal"]]
    assert not (predicate["passedTests"] if record.tainted else predicate["warnedTests"])
    assert [entry["name"] for entry in statement["subject"]] == [
        "record.json",
        "given/model.keras",
        "given/scaler.joblib",
    ]
    names = [entry["name"] for entry in predicate["configuration"]]
    assert names[:5] == ["run", "image", "reprobox.lock", "given/model.keras", "given/scaler.joblib"]
    assert predicate["configuration"][0]["uri"] == "reprobox:run/20260101T000000-aaaaaa"


@pytest.mark.parametrize("more", [{"status": "failed"}, {"status": "interrupted"}, {"tainted": ("an input changed",)}])
def test_what_provenance_cannot_say(more: dict[str, Any]) -> None:
    """A run that failed, was interrupted or is tainted gets no provenance; an evaluation gets its result."""
    with pytest.raises(RecordError, match="provenance cannot say so"):
        require_attestable(make_training(**more))
    require_attestable(make_evaluation(EQUAL, **more))
    require_attestable(make_training())


@pytest.mark.parametrize("record", [make_training(), make_evaluation(EQUAL)])
@pytest.mark.parametrize("key", [KEY, OTHER])
def test_what_was_signed_is_accepted(record: Record, key: Any) -> None:
    """An attestation is verified by its key, and whole but unchecked by any other or none."""
    data = render_attestation(record, sha_of(record), key)
    found = accept(data, record, key=key)
    assert (found.signature, found.keyid, found.algorithm) == ("verified", key.public.keyid, key.public.algorithm)
    assert found.predicate == (TEST_RESULT if record.draft["of"] else PROVENANCE)
    for keys in ((), (make_private_key("ed25519").public,)):
        again = parse_attestation(data, file=found.file, record=record, sha256=sha_of(record), keys=keys)
        assert again == replace(found, signature="unchecked")


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every leaf of a document."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _places(item, (*place, key))]
    if isinstance(value, list) and value:
        return [leaf for index, item in enumerate(value) for leaf in _places(item, (*place, index))]
    return [place]


@pytest.mark.parametrize("record", [make_training(), make_evaluation(EQUAL, UNEQUAL)])
def test_every_claim_is_held_against_the_record(record: Record) -> None:
    """Whichever leaf of a statement is another one or not there, signed by the right key all the same, it is refused."""
    statement = state(record)
    for place in _places(statement):
        for change in ("replace", "remove"):
            altered = copy.deepcopy(statement)
            holder = altered
            for step in place[:-1]:
                holder = holder[step]
            if change == "remove" and holder[place[-1]] in ([], {}):
                continue  # not there and empty are the same
            if change == "replace":
                holder[place[-1]] = "0" * 64
            else:
                del holder[place[-1]]
            with pytest.raises(RecordError):
                accept(sign(altered), record)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["subject"].append({"name": "outputs/x", "digest": {"sha256": "0" * 64}}), "subject has 4 entries"),
        (lambda s: s["subject"][1]["digest"].update(sha512="0"), "says more than the record"),
        (lambda s: s["predicate"]["buildDefinition"]["externalParameters"].update(more=1), "says more than the record"),
        (lambda s: s["predicate"]["buildDefinition"]["externalParameters"].update(seed=0.0), "externalParameters.seed is 0.0"),
        (lambda s: s["predicate"]["buildDefinition"]["externalParameters"].update(seed=False), "seed is False"),
        (lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"].append({"name": "x", "uri": "a:b"}), "has 8 entries"),
        (lambda s: s["predicate"]["buildDefinition"]["resolvedDependencies"].reverse(), "by the record image"),
        (lambda s: s.update(predicateType="https://example.com/x"), "not known here"),
        (lambda s: s.update(predicateType=TEST_RESULT), "predicateType"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "no in-toto statement of version 1"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_wrong_claim(change: Callable[[Any], Any], words: str) -> None:
    """The message names the place and both values."""
    record = make_training()
    statement = state(record)
    change(statement)
    with pytest.raises(RecordError, match=words):
        accept(sign(statement), record)


def test_a_message_steers_no_terminal() -> None:
    """Control characters of whoever wrote a statement are spelled out."""
    record = make_training()
    for altered in (
        state(record) | {"predicateType": "\x1b[2J"},
        state(record) | {"subject": [{"name": "record.json", "digest": {"sha256": sha_of(record), "\x1b[2J": "1"}}]},
    ):
        with pytest.raises(RecordError) as caught:
            accept(sign(altered), record)
        assert "\x1b" not in caught.value.message
        assert "\\x1b[2J" in caught.value.message


def test_an_attestation_of_a_released_version_is_read_for_ever(update_golden: bool) -> None:
    """This one, byte for byte, is what its record and key give, and it verifies."""
    # The first key of RFC 8032, section 7.1; its signatures are the same each time.
    seed = base64.b64encode(
        bytes.fromhex(
            "302e020100300506032b657004220420" + "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
        )
    )
    pem = b"-----BEGIN PRIVATE KEY-----\n" + seed + b"\n-----END PRIVATE KEY-----\n"
    key = parse_private_key(pem, source="RFC 8032", passphrase=None)
    now = [make_training(), make_evaluation(EQUAL, UNEQUAL)]
    rows = [
        {"record": render_record(r).decode(), "attestation": render_attestation(r, sha_of(r), key).decode()}
        for r in now
    ]
    for row in read_golden("attestation-v1.json", rows, update_golden):
        record = parse_record(row["record"].encode(), source="golden")
        data = row["attestation"].encode()
        assert render_attestation(record, sha_of(record), key) == data
        assert accept(data, record, key=key).signature == "verified"


def test_fields_that_are_not_known_are_ignored() -> None:
    """As in-toto wants it: what a later version adds does not make a statement false."""
    record = make_training()
    statement = state(record)
    statement["predicate"]["runDetails"]["more"] = {"a": 1}
    statement["subject"][1]["annotations"] = {"b": 2}
    assert accept(sign(statement), record).signature == "verified"


def test_another_run_is_not_this_one() -> None:
    """An attestation of a run is none of a run that differs in anything, and none of the same with another name."""
    record = make_training()
    data = render_attestation(record, sha_of(record), KEY)
    for other in (make_training(exit_code=1), make_training(metrics={"a": 0.2}), make_evaluation(EQUAL)):
        with pytest.raises(RecordError):
            parse_attestation(
                data, file=name_of(PROVENANCE, KEY.public.keyid), record=other, sha256=sha_of(other), keys=()
            )
    with pytest.raises(RecordError, match="should be called"):
        accept(data, record, file="provenance.00000000.json")


def test_other_spellings_and_types_are_refused() -> None:
    """One spelling of the file and of the payload, one type, one signature, the key carried along."""
    record = make_training()
    data = render_attestation(record, sha_of(record), KEY)
    envelope = parse_envelope(data)
    signature = envelope.signatures[0]
    value = json.loads(data)
    for text in (json.dumps(value), json.dumps(value | {"more": 1}, separators=(",", ":")), data.decode() + "\n"):
        with pytest.raises(RecordError):
            accept(text.encode(), record)
    for other in (
        replace(envelope, signatures=(signature, signature)),
        replace(envelope, signatures=(replace(signature, public_key=None),)),
        replace(envelope, signatures=(replace(signature, public_key=OTHER.public.der),)),
        replace(envelope, signatures=(replace(signature, keyid=OTHER.public.keyid),)),
        replace(envelope, signatures=(replace(signature, keyid=OTHER.public.keyid, public_key=OTHER.public.der),)),
        sign_envelope(json.dumps(state(record)).encode(), PAYLOAD_TYPE, KEY),
        sign_envelope(b"no JSON", PAYLOAD_TYPE, KEY),
        sign_envelope(b"[" * 10**5, PAYLOAD_TYPE, KEY),
    ):
        with pytest.raises(RecordError):
            accept(render_envelope(other), record)
    with pytest.raises(RecordError, match="of type"):
        accept(sign(state(record), payload_type="application/json"), record)


def _count_accepted(altered: list[bytes], record: Record, key: Any, keys: tuple[Any, ...]) -> int:
    name, sha256, count = name_of(state(record)["predicateType"], key.public.keyid), sha_of(record), 0
    for data in altered:
        try:
            parse_attestation(data, file=name, record=record, sha256=sha256, keys=keys)
        except RecordError:
            continue
        count += 1
    return count


def _flip(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


@pytest.mark.parametrize("record", [make_training(), make_evaluation(EQUAL)])
@pytest.mark.parametrize("key", [KEY, OTHER])
def test_a_flipped_bit_is_noticed_without_any_key(record: Record, key: Any) -> None:
    """3,000 random bits of a file, one at a time, and 500 cuts of it: never accepted."""
    data = render_attestation(record, sha_of(record), key)
    chance = random.Random(7)
    altered = [_flip(data, at) for at in chance.sample(range(len(data) * 8), 3000)]
    altered += [data[:length] for length in chance.sample(range(len(data)), 500)]
    assert _count_accepted([data], record, key, ()) == 1
    assert _count_accepted(altered, record, key, ()) == 0


@pytest.mark.parametrize("record", [make_training(), make_evaluation(EQUAL)])
@pytest.mark.parametrize("key", [KEY, OTHER])
def test_a_flipped_bit_of_payload_or_signature_is_noticed(record: Record, key: Any) -> None:
    """The same beneath base64, in files that are well-formed again: 1,000 bits of the payload, all of the signature."""
    envelope = parse_envelope(render_attestation(record, sha_of(record), key))
    signature = envelope.signatures[0]
    chance = random.Random(11)
    altered = [
        replace(envelope, payload=_flip(envelope.payload, at))
        for at in chance.sample(range(len(envelope.payload) * 8), 1000)
    ]
    altered += [
        replace(envelope, signatures=(replace(signature, sig=_flip(signature.sig, at)),))
        for at in range(len(signature.sig) * 8)
    ]
    assert _count_accepted([render_envelope(one) for one in altered], record, key, (key.public,)) == 0


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_other_document_is_no_statement(value: Any) -> None:
    """Whatever is signed, it is refused in words; never another exception."""
    record = make_training()
    assert find_claim_problem(value, record, sha_of(record))


def test_a_record_that_lacks_something_is_said_to() -> None:
    """A foreign record without what a statement names is an unreadable record, not a bug of ours."""
    record = make_training()
    del record.draft["engine"]
    with pytest.raises(RecordError, match="not complete"):
        state(record)
