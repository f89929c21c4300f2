"""Start JupyterLab as the README does, and see that it opens the start notebook."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

TOKEN = "start-check"  # noqa: S105 - for a server that lives some seconds
PATH = "notebooks/start.ipynb"


def main() -> int:
    """Return 0 once Lab has served the notebook that it opens with."""
    home = tempfile.mkdtemp()
    env = {**os.environ, "HOME": home, "JUPYTER_TOKEN": TOKEN}
    options = ["--no-browser", "--ip=127.0.0.1", "--port=0"]
    runtime = Path(home, "runtime")
    env["JUPYTER_RUNTIME_DIR"] = str(runtime)
    lab = subprocess.Popen([sys.executable, "-m", "jupyter", "lab", *options], env=env)  # noqa: S603
    try:
        for _ in range(300):
            time.sleep(0.2)
            found = list(runtime.glob("jpserver-*.json"))
            if found and lab.poll() is None:
                url = json.loads(found[0].read_text())["url"]
                break
        else:
            return 1
        for path in ("", f"api/contents/{PATH}"):
            with urllib.request.urlopen(f"{url}{path}?token={TOKEN}") as answer:  # noqa: S310
                opened = answer.url.partition("?")[0].removeprefix(url)
                print(answer.status, opened)
                if not opened.endswith(PATH):
                    return 1
    except urllib.error.URLError as exc:
        print(exc)
        return 1
    finally:
        lab.terminate()
        lab.wait(30)
    return 0


if __name__ == "__main__":
    sys.exit(main())
