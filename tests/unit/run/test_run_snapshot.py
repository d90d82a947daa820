"""What of a project's folder goes into a run."""

from __future__ import annotations

from pathlib import Path

from reprobox.image.cache import Cache
from reprobox.records.store import RunStore
from reprobox.run.snapshot import plan_snapshot


def test_what_tools_keep_in_a_project_is_not_its_code(tmp_path: Path) -> None:
    """Version control, environments and our own cache stay out, wherever they lie and whatever they are called."""
    for path in (".git/HEAD", "env/pyvenv.cfg", "env/bin/python", "sub/__pycache__/a.pyc", "train.py", "sub/a.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    with Cache(tmp_path / "sub/cache").aside():
        (tmp_path / "sub/cache/packages").write_text("big")
    (tmp_path / "other/CACHEDIR.TAG").parent.mkdir()
    (tmp_path / "other/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    plan = plan_snapshot(tmp_path, inputs=(), script="train.py", store=RunStore(tmp_path / ".reprobox"))
    assert sorted(plan.copied) == ["other/CACHEDIR.TAG", "sub/a.py", "train.py"]
