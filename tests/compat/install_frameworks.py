"""Install what the pages of docs/frameworks were checked with, each into an environment of its own.

    python -m tests.compat.install_frameworks [NAME ...]

The folder is `.frameworks`, or the one that FRAMEWORKS_PATH names; what is there already is left alone. All of them
take about 5 GB. What can't be installed is told, and the others go on: its page is skipped.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fakes.frameworks import Checked, checked

STAMP = "installed"
"""The file that says with what an environment was filled."""


def install(name: str, wanted: Checked) -> bool:
    """Whether the environment is there."""
    folder = wanted.folder(name)
    packages = [*wanted.pip, *wanted.npm]
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text("utf-8") == "\n".join(packages):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if not all(subprocess.run(command, check=False).returncode == 0 for command in _commands(folder, wanted)):
        return False
    stamp.write_text("\n".join(packages), "utf-8")
    return True


def _commands(folder: Path, wanted: Checked) -> list[list[str]]:
    if wanted.npm:
        return [["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), *wanted.npm]]
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    return [[sys.executable, "-m", "venv", str(folder)], [*pip, *wanted.pip]]


def main(names: Sequence[str]) -> int:
    """Install these, or all; the exit code is 1 when one could not be."""
    _, rows = checked()
    missing = []
    for name in names or rows:
        if rows[name].npm and shutil.which("npm") is None:
            missing.append(f"{name} (there is no npm)")
            continue
        sys.stdout.write(f"{name}: {rows[name].version}\n")
        sys.stdout.flush()
        if not install(name, rows[name]):
            missing.append(name)
    if missing:
        sys.stdout.write(f"not installed: {', '.join(missing)}\n")
    return 1 if missing and names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
