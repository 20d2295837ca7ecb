"""Run the blocks of Python of pages, each page in a namespace and an empty folder of its own.

python run_blocks.py FOLDER PAGE...: writes a JSON object, page -> what went wrong, empty if nothing did.
"""

import io
import json
import os
import runpy
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path

blocks = runpy.run_path(str(Path(__file__).with_name("blocks.py")))


def run(page: Path, folder: Path) -> str:
    """Run a page's blocks in order; return the traceback of the first that fails."""
    folder.mkdir()
    os.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, code in enumerate(blocks["python_blocks"](page), start=1):
        try:
            with redirect_stdout(io.StringIO()):
                exec(compile(code, f"{page.name}, block {number}", "exec"), names)
        except BaseException:  # noqa: BLE001 - whatever a page's code raises is what is asked for
            return traceback.format_exc()
    return ""


if __name__ == "__main__":
    root, pages = Path(sys.argv[1]), sys.argv[2:]
    failed = {name: run(blocks["ROOT"] / name, root / Path(name).stem) for name in pages}
    sys.stdout.write(f"{json.dumps(failed)}\n")
