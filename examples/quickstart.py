"""The chain of ``mae quickstart`` from tarballs on an object store: ``make quickstart``.

The tarballs are served by a real S3 server (``rclone serve s3``) on loopback; everything else is
`mae_sdk.cli.quickstart`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mae_sdk.cli import quickstart  # noqa: E402
from mae_skill.errors import MaeError  # noqa: E402

from tests.support.s3 import S3Server  # noqa: E402

BUCKET = "quickstart"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart-out"), help="where everything lands (replaced)"
    )
    out = parser.parse_args().out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    parts = out / "s3" / BUCKET / "data"
    quickstart.write_parts(parts)

    with S3Server(out / "s3") as server:
        os.environ.update(server.env, MAE_CACHE_DIR=str(out / "cache"))
        data = f"s3://{BUCKET}/data"
        print(f"data    {data} on {server.endpoint}", flush=True)
        try:
            done = quickstart.run_chain(data, out, quickstart.FULL, pixels=parts, as_json=False)
        except MaeError as error:
            print(error)
            return 1
    print(quickstart.summary(done))
    found = done["accuracy"]
    if found["pretrained"] <= max(value for name, value in found.items() if name != "pretrained"):
        print("FAILED: pretraining did not beat the others")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
