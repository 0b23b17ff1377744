"""The demo reaches its accuracy, and says what is wrong with a bad option."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the example needs scikit-learn's handwritten digits")

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "digits.py"


def run_example(*options):
    return subprocess.run(
        [sys.executable, EXAMPLE, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_learns_the_digits():
    done = run_example("--backend", "numpy")
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"training loss +([\d.]+)", done.stdout)]
    last = re.search(r"test accuracy ([\d.]+)% after 20 epochs, ([\d.]+) s", done.stdout)
    assert len(losses) == 20
    assert losses[-1] < 0.1 * losses[0]
    assert last is not None
    assert float(last[1]) > 95.0
    assert float(last[2]) < 30.0


def test_seed_decides_everything():
    first, second, other = (
        re.findall(r"epoch .*", run_example("--epochs", "2", "--seed", seed).stdout)
        for seed in ("3", "3", "4")
    )
    assert len(first) == 2
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
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
    ],
)
def test_bad_option(options, message):
    done = run_example(*options)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
