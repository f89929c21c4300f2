/* Python for the notebook page: Pyodide from this site, one namespace for all cells. */
const here = new URL("../run/", import.meta.url);

const CELL = `
import ast, builtins, contextlib, io, traceback
from pyodide.code import eval_code_async

_shown = []

def _show(value):
    if value is None:
        return
    for kind, name in (("svg", "_repr_svg_"), ("html", "_repr_html_")):
        make = getattr(value, name, None)
        data = make() if callable(make) else None
        if data:
            _shown.append((kind, data, repr(value)))
            return
    _shown.append(("text", repr(value)))

def _display(*values):
    for value in values:
        _flush()
        _show(value)

builtins.display = _display
_out = io.StringIO()

def _flush():
    if text := _out.getvalue().rstrip("\\n"):
        _shown.append(("text", text))
    _out.seek(0)
    _out.truncate()

async def run_cell(source, space, name):
    _shown.clear()
    failed = ""
    with contextlib.redirect_stdout(_out), contextlib.redirect_stderr(_out):
        try:
            value = await eval_code_async(source, globals=space, filename=name)
            _flush()
            _show(value)
        except BaseException as exc:
            _flush()
            failed = type(exc).__name__
            line = "".join(traceback.format_exception_only(exc)).strip()
            _shown.append(("error", line))
    return [list(_shown), failed]
`;

let python;

const start = async () => {
  const { loadPyodide } = await import(new URL("pyodide/pyodide.mjs", here).href);
  python = await loadPyodide({ indexURL: new URL("pyodide/", here).href });
  const into = python.runPython("import site; site.getsitepackages()[0]");
  for (const name of ["needs.zip", "kit.zip"]) {
    const archive = await fetch(new URL(name, here));
    python.unpackArchive(await archive.arrayBuffer(), "zip", { extractDir: into });
  }
  python.runPython(CELL);
  self.space = python.runPython("{'__name__': '__main__'}");
};

self.onmessage = async ({ data }) => {
  try {
    if (data.start) {
      await start();
      self.postMessage({ ready: true });
      return;
    }
    const run = python.globals.get("run_cell");
    const result = await run(data.source, self.space, `cell ${data.n}`);
    const [outputs, failed] = result.toJs();
    result.destroy();
    self.postMessage({ outputs, failed });
  } catch (error) {
    self.postMessage({ failed: String(error.message || error), outputs: [] });
  }
};
