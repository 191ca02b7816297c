"""`mae quickstart` from the built wheel, in an environment of its own, far from the checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.docs import ROOT


def test_the_quickstart_of_the_wheel_learns_digits_and_leaves_its_files(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    subprocess.run([*build, "--outdir", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*install, str(next(tmp_path.glob("*.whl")))], check=True, capture_output=True)

    # The other packages are lent: a line of a .pth adds their folder, and reads no .pth in it, so
    # that the checkout's own editable install stays out.
    click = importlib.util.find_spec("click")
    assert click is not None and click.origin is not None
    (place,) = home.glob("lib/python*/site-packages")
    (place / "lent.pth").write_text(str(Path(click.origin).parents[1]))

    keep = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment = {**keep, "MAE_CACHE_DIR": str(tmp_path / "cache")}
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [str(home / "bin" / "mae"), "quickstart", "--json"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    record = json.loads(
        (work / "quickstart-out/results" / found["jobs"]["pretrain"] / "job.json").read_text()
    )
    assert record["launch"]["command"][0].startswith(str(home))  # of the wheel, not the checkout
    accuracy = found["accuracy"]
    others = [value for name, value in accuracy.items() if name != "pretrained"]
    assert accuracy["pretrained"] > max(others)
    for name in ("model", "predictions", "picture", "onnx"):
        assert Path(found[name]).stat().st_size > 1000
