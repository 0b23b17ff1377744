"""The vision example learns, resumes bit for bit, reads its files and says what is wrong."""

import gzip
import json
import struct

import numpy as np
import pytest
import vision

pytest.importorskip("sklearn", reason="the example needs scikit-learn's handwritten digits")

# ResNet-8 and CIFAR-10 differ from these in numbers alone.
QUICK = ("--model", "lenet", "--batch", "32", "--backend", "numpy", "--seed", "3")


@pytest.fixture
def module(monkeypatch):
    """A module of the example by name."""
    return vision.importer(monkeypatch)


@pytest.fixture
def train(module, monkeypatch, capsys, cpu):
    """Run the script in this process; return what it printed."""
    script = module("train")

    def run(*options):
        monkeypatch.setattr("sys.argv", ["train.py", *map(str, options)])
        script.main()
        return capsys.readouterr().out

    def compiled():
        found = script.Run(np, script.load(np, "digits"), script.parse_options([*QUICK]))
        labels = found.pictures.train_labels[:32]
        images = found.augmentation(found.pictures.train[:32], np.random.default_rng(0))
        found.train_step(images, labels, 0)
        found.evaluate(found.pictures.train, found.pictures.train_labels * 0)

    cpu.precompiled(compiled)
    return run


def weights(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name != "header"}


def test_learns_and_resumes_bit_for_bit(train, tmp_path):
    log, plot = tmp_path / "run.jsonl", tmp_path / "run.png"
    text = train(*QUICK, "--epochs", 4, "--checkpoint", tmp_path / "whole.npz", "--log", log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["options", *["epoch"] * 4, "confusion"]
    assert lines[4]["loss"] < 0.5 * lines[1]["loss"]
    assert lines[4]["test_accuracy"] > 0.9
    counts = np.array(lines[5]["counts"])
    assert counts.sum() == 360
    assert np.trace(counts) / 360 == pytest.approx(lines[4]["test_accuracy"])
    assert f"held-out accuracy {lines[4]['test_accuracy']:.2%} after 4 epochs" in text

    parts = tmp_path / "parts.npz"
    train(*QUICK, "--epochs", 4, "--checkpoint", parts, "--stop-after", 2)
    again = train(*QUICK, "--epochs", 4, "--checkpoint", parts, "--resume", "--plot", plot)
    whole, resumed = weights(tmp_path / "whole.npz"), weights(parts)
    assert whole.keys() == resumed.keys()
    for name, x in whole.items():
        assert x.tobytes() == resumed[name].tobytes(), name
    assert text.splitlines()[-1].split(",")[0] == again.splitlines()[-1].split(",")[0]
    assert plot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    # Resumed with what would make another run of it, or of half a file.
    for change, message in (
        (("--seed", 4), "was made with --seed 3; this run has --seed 4"),
        (("--dtype", "float16"), "was made with --dtype float32"),
    ):
        with pytest.raises(SystemExit, match=message):
            train(*QUICK, "--epochs", 4, "--checkpoint", parts, "--resume", *change)
    parts.write_bytes(parts.read_bytes()[:1000])
    with pytest.raises(SystemExit, match="is no checkpoint, or is cut short"):
        train(*QUICK, "--epochs", 4, "--checkpoint", parts, "--resume")


def idx(array):
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + (array.astype(np.uint8).tobytes())
    )


def write_mnist(folder, packed):
    random = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": random.integers(0, 256, (7, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(7),
        "t10k-images-idx3-ubyte": random.integers(0, 256, (3, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(3),
    }
    for name, array in arrays.items():
        data = idx(array)
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return arrays


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_files(packed, module, tmp_path):
    arrays = write_mnist(tmp_path, packed)
    found = module("pictures").load(np, str(tmp_path))
    assert (found.name, found.image, len(found.test)) == ("mnist", (1, 28, 28), 3)
    assert found.train_labels.tolist() == list(range(7))
    # Normalised by the training part alone.
    pixels = arrays["train-images-idx3-ubyte"]
    wanted = (arrays["t10k-images-idx3-ubyte"] - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(found.test[:, 0], wanted, rtol=1e-4, atol=1e-5)


def test_cifar_files(module, tmp_path):
    random = np.random.default_rng(0)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    rows = random.integers(0, 10, (6, 4, 3073), dtype=np.uint8)
    for name, part in zip(names, rows, strict=True):
        (tmp_path / name).write_bytes(part.tobytes())
    found = module("pictures").load(np, str(tmp_path))
    assert (found.name, found.image, len(found.train)) == ("cifar10", (3, 32, 32), 20)
    assert found.mirrored
    assert found.train_labels.tolist() == rows[:5, :, 0].ravel().tolist()
    planes = rows[:5, :, 1:].reshape(20, 3, 32, 32)
    wanted = planes - planes.mean((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(
        found.train, wanted / planes.std((0, 2, 3), keepdims=True), rtol=1e-4, atol=1e-5
    )


def test_files_that_are_wrong(module, tmp_path):
    load = module("pictures").load
    with pytest.raises(SystemExit, match=r"neither train-images-idx3-ubyte\(.gz\) nor"):
        load(np, str(tmp_path))
    write_mnist(tmp_path, False)
    images = tmp_path / "train-images-idx3-ubyte"
    data = images.read_bytes()
    images.write_bytes(data[:-1])
    with pytest.raises(SystemExit, match="cut short"):
        load(np, str(tmp_path))
    images.write_bytes(b"<html>" + data)
    with pytest.raises(SystemExit, match="no IDX file"):
        load(np, str(tmp_path))
    images.write_bytes(data)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(SystemExit, match="t10k-labels-idx1-ubyte is missing"):
        load(np, str(tmp_path))


def test_augmentation_moves_pixels(module, cpu):
    pictures = module("pictures")
    image = np.zeros((64, 1, 16, 16), np.float32)
    image[:, :, 6:9, 7] = 1.0
    change = pictures.Augmentation("shift", np, (1, 16, 16), mirrored=False)
    moved = change(image, np.random.default_rng(0))
    # By whole pixels, two at most.
    np.testing.assert_allclose(moved.sum((1, 2, 3)), 3, rtol=1e-4)
    rows, columns = (moved[:, 0].sum(axis).argmax(1) for axis in (2, 1))
    assert set(columns) == {5, 6, 7, 8, 9}
    assert set(rows) <= {4, 5, 6, 7, 8, 9, 10}
    same = pictures.Augmentation("none", np, (1, 16, 16), mirrored=False)
    assert same(image, np.random.default_rng(0)) is image
    mirrored = pictures.Augmentation("shift", np, (1, 16, 16), mirrored=True)
    image[:, :, 6:9, 7] = 0.0
    image[:, :, 7, 2] = 1.0
    columns = mirrored(image, np.random.default_rng(0))[:, 0].sum(1).argmax(1)
    assert set(columns) == {0, 1, 2, 3, 4, 11, 12, 13, 14, 15}


def test_learning_rate(module):
    cosine = module("optimizer").cosine
    rates = [cosine(1.0, i, 100, 10) for i in range(100)]
    assert rates[:3] == [0.1, 0.2, 0.3]
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001


def test_confusion(module):
    journal = module("journal")
    counts = journal.confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert "50.0%" in journal.confusion_text(counts, ("cat", "dog", "eel")).splitlines()[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "argument --epochs: '0' is not a whole number, 1 to 10000"),
        (["--batch", "1"], "argument --batch: '1' is not a whole number, 2 to 100000"),
        (["--lr", "nan"], "argument --lr: 'nan' is not a number from"),
        (["--smooth", "1"], "argument --smooth: '1' is not a number from 0 to 1"),
        (["--model", "vgg"], "argument --model: invalid choice: 'vgg'"),
        (["--augment", "cutout"], "argument --augment: invalid choice: 'cutout'"),
        (["--resume"], "--resume needs --checkpoint"),
    ],
)
def test_bad_option(options, message, module, capsys):
    with pytest.raises(SystemExit):
        module("train").parse_options(options)
    assert message in capsys.readouterr().err


def test_bad_runs(train, tmp_path):
    for options, message in (
        (("--batch", 5000), "--batch 5000: there are only 1437 training images"),
        (("--resume", "--checkpoint", tmp_path / "none.npz"), "none.npz does not exist"),
        (("--lr", 1e5, "--epochs", 3), "try a smaller --lr"),
    ):
        with pytest.raises(SystemExit, match=message), np.errstate(all="ignore"):
            train(*QUICK, *options)
