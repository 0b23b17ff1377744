"""The demo reaches its accuracy, and says what is wrong with a bad option."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the example needs scikit-learn's handwritten digits")

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "digits.py"


# Runs a script for each of several lists of options and writes exit status, output and errors:
# to start Python and to import scikit-learn takes longer than an epoch.
RUN_SEVERAL = """
import contextlib, io, json, pathlib, runpy, sys, traceback

script, lists = sys.argv[1], json.loads(sys.argv[2])
sys.path[0] = str(pathlib.Path(script).parent)
done = []
for options in lists:
    sys.argv, code = [script, *options], 0
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
            if isinstance(code, str):
                print(code, file=sys.stderr)
        except BaseException:
            code = 1
            traceback.print_exc()
    done.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(done))
"""


def run(*command):
    return subprocess.run(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_several(*lists):
    """Exit status, output and errors of the example for several lists of options, in a process."""
    done = run("-c", RUN_SEVERAL, EXAMPLE, json.dumps(lists))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_learns_the_digits():
    done = run(EXAMPLE, "--backend", "numpy")
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"training loss +([\d.]+)", done.stdout)]
    last = re.search(r"test accuracy ([\d.]+)% after 20 epochs, ([\d.]+) s", done.stdout)
    assert len(losses) == 20
    assert losses[-1] < 0.1 * losses[0]
    assert last is not None
    assert float(last[1]) > 95.0
    assert float(last[2]) < 30.0


def test_seed_decides_everything():
    two_epochs = ("--epochs", "2", "--seed")
    several = run_several((*two_epochs, "3"), (*two_epochs, "4"))
    texts = [run(EXAMPLE, *two_epochs, "3").stdout, *(output for _, output, _ in several)]
    first, second, other = (re.findall(r"epoch .*", text) for text in texts)
    assert len(first) == 2
    assert first == second
    assert first != other


BAD_OPTIONS = [
    (["--epochs", "0"], "argument --epochs: '0' is not a whole number, 1 to 10000"),
    (["--epochs", "2.5"], "argument --epochs: '2.5' is not a whole number"),
    (["--batch", "-3"], "argument --batch: '-3' is not a whole number"),
    (["--batch", "5000"], "--batch 5000: there are only 1438 training images"),
    (["--hidden", "1000000000"], "argument --hidden: '1000000000' is not a whole number"),
    (["--lr", "0"], "argument --lr: '0' is not a number above 0"),
    (["--lr", "nan"], "argument --lr: 'nan' is not a number above 0"),
    (["--seed", "x"], "argument --seed: 'x' is not a whole number"),
    (["--backend", "tpu"], "argument --backend: invalid choice: 'tpu'"),
    (["--lr", "1e30", "--epochs", "3"], "try a smaller --lr"),
]


def test_bad_options():
    found = run_several(*(options for options, _ in BAD_OPTIONS))
    for (options, message), (code, _, errors) in zip(BAD_OPTIONS, found, strict=True):
        assert code != 0, options
        assert message in errors, options
        assert "Traceback" not in errors, options
