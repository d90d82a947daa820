"""Reaching conda channels: credentials from the ecosystem's places, bundles of certificates, servers that go silent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.channel.build import Channel
from tests.channel.server import Server, serve
from tests.conftest import Tool
from tests.integration.conftest import make_conda_project

NAMES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
ENVIRONMENT = "channels: [conda-forge]\ndependencies: [python=3.11, versioned, hello-entry]\n"


def project(folder: Path, server: Server) -> Tool:
    tool = make_conda_project(folder, server, ENVIRONMENT)
    tool.environ["HOME"] = str(folder / "home")
    (folder / "home").mkdir()
    return tool


@pytest.mark.parametrize("place", ["rattler", "netrc", "address"])
def test_credentials_hold_for_lists_and_packages(channel: Channel, tmp_path: Path, place: str) -> None:
    """Repodata and packages are asked for with the same credentials, which no lock, message or record holds."""
    with serve(channel.root) as server:
        server.user = ("alice", "hunter2")
        tool = project(tmp_path / "p", server)
        refused = tool("lock", code=4)
        assert "401" in refused.err
        if place == "rattler":
            store = tmp_path / "auth.json"
            store.write_text(json.dumps({"127.0.0.1": {"BasicHTTP": {"username": "alice", "password": "hunter2"}}}))
            tool.environ["RATTLER_AUTH_FILE"] = str(store)
        elif place == "netrc":
            netrc = tmp_path / "netrc"
            netrc.write_text("machine 127.0.0.1\nlogin alice\npassword hunter2\n")
            netrc.chmod(0o600)
            tool.environ["NETRC"] = str(netrc)
        else:
            toml = f'[mirrors]\nconda = "{server.url(credentials=True)}"\n'
            (tool.folder / "reprobox.toml").write_text(toml)
        done = [tool("lock"), tool("build", "--no-load")]
        assert server.count("hello-entry-1.0-pyhd8ed1ab_0.conda") == 1
    assert not any("hunter2" in text for step in (refused, *done) for text in (step.out, step.err))
    assert "hunter2" not in (tool.folder / "reprobox.lock").read_text()


def test_a_bearer_token_reaches_packages(channel: Channel, tmp_path: Path) -> None:
    """A kind of credentials that netrc has no place for."""
    with serve(channel.root) as server:
        server.bearer = "sesame"
        tool = project(tmp_path / "p", server)
        (tmp_path / "auth.json").write_text(json.dumps({"127.0.0.1": {"BearerToken": "sesame"}}))
        tool.environ["RATTLER_AUTH_FILE"] = str(tmp_path / "auth.json")
        tool("lock")
        tool("build", "--no-load")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate authority of one's own; gives its bundle, and key and certificate of a server."""
    bundle, key, request, signed = (folder / name for name in ("ca.pem", "ca.key", "server.csr", "server.pem"))
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")

    def openssl(*words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", bundle, "-days", 2, "-subj",
            "/CN=reprobox tests", "-addext", "basicConstraints=critical,CA:TRUE")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "server.key", "-out", request, "-subj", "/CN=x")
    openssl("x509", "-req", "-in", request, "-CA", bundle, "-CAkey", key, "-CAcreateserial", "-out", signed, "-days", 2,
            "-extfile", folder / "names")  # fmt: skip
    both = folder / "both.pem"
    both.write_text((folder / "server.key").read_text() + signed.read_text())
    return bundle, both


@pytest.mark.parametrize("place", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "condarc"])
def test_a_bundle_of_certificates_named_once_holds_for_all(
    channel: Channel, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel behind a certificate authority of one's own: refused, and taken once any usual place names its bundle."""
    bundle, certificate = make_certificate(tmp_path)
    # What else is fetched must stay reachable: one's own authority is added to those of this machine.
    usual = next((os.environ[name] for name in NAMES if name in os.environ), "/etc/ssl/certs/ca-certificates.crt")
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with serve(channel.root, certificate=certificate) as server:
        tool = project(tmp_path / "p", server)
        assert "certificate" in tool("lock", code=4).err
        if Path(usual).is_file():
            bundle.write_text(bundle.read_text() + Path(usual).read_text())
        if place == "condarc":
            (tool.folder / "home/.condarc").write_text(f"ssl_verify: {bundle}\n")
        else:
            tool.environ[place] = str(bundle)
        tool("lock")
        tool("build", "--no-load")


def test_ctrl_c_does_not_wait_for_a_silent_server(channel: Channel, tmp_path: Path) -> None:
    """A download that gets no more bytes ends at once on Ctrl-C, and leaves nothing half done."""
    with serve(channel.root) as server:
        tool = project(tmp_path / "p", server)
        tool("lock")
        server.stall = {"hello-entry-1.0-pyhd8ed1ab_0.conda"}
        running = tool.start("build", "--no-load")
        while server.count("hello-entry-1.0-pyhd8ed1ab_0.conda") == 0:
            assert running.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=20)
        assert running.returncode == 130
        assert "interrupted" in err
        assert list((tool.folder / "cache/unfinished").iterdir()) == []
        server.stall = set()
        tool("build", "--no-load")
