"""The count of bank conflicts, on accesses of which the answer is known."""

from __future__ import annotations

import pytest

from nnkernels.inspection.bank_conflicts import extra_phases, phases

ARCHS = ("sm_80", "sm_90", "gfx90a", "gfx942", "gfx1100")


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("access_bytes", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("write", [False, True])
def test_phases_hold_every_lane_once(arch, access_bytes, write):
    lanes = [lane for phase in phases(arch, access_bytes, write=write) for lane in phase]
    assert sorted(lanes) == list(range(64 if arch in ("gfx90a", "gfx942") else 32))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("access_bytes", [4, 8, 16])
@pytest.mark.parametrize("write", [False, True])
def test_neighbours_do_not_conflict(arch, access_bytes, write):
    elements = [lane * access_bytes // 4 for lane in range(64)]
    assert extra_phases(elements, 4, access_bytes, arch, write=write) == 0


@pytest.mark.parametrize(
    ("stride", "extra"),
    [(0, 0), (1, 0), (2, 1), (3, 0), (4, 3), (8, 7), (32, 31), (33, 0), (48, 15)],
)
def test_strides_of_floats(stride, extra):
    """Stride s: gcd(s, 32) lanes need each bank that is needed at all."""
    elements = [lane * stride for lane in range(32)]
    assert extra_phases(elements, 4, 4) == extra
    # Two phases of a warp of 64.
    elements = [lane * stride for lane in range(64)]
    assert extra_phases(elements, 4, 4, "gfx90a") == 2 * extra


def test_one_word_is_served_to_all():
    assert extra_phases([5] * 32, 4, 4) == 0
    assert extra_phases([lane // 2 for lane in range(32)], 2, 2) == 0
    # Bytes 0 and 128 are in one bank, and two words.
    assert extra_phases([0, 128], 1, 1) == 1


def test_lanes_that_take_no_part():
    assert extra_phases([0, None, 32], 4, 4) == 1
    assert extra_phases([0, None, None], 4, 4) == 0
    assert extra_phases([], 4, 16) == 0


@pytest.mark.parametrize("chunks", [4, 8])
def test_rows_of_ldmatrix(chunks):
    """16 rows of 64 or 128 bytes as the four matrices of an x4, plain and with XOR."""
    plain = [(lane % 16) * chunks + lane // 16 for lane in range(32)]
    # Rows of 64 bytes: two make a line of all banks.
    mixed = [
        (lane % 16) * chunks + (lane // 16 ^ lane % 16 * chunks // 8) % chunks for lane in range(32)
    ]
    assert extra_phases([8 * i for i in plain], 2, 16) == 4 * (chunks - 1)
    assert extra_phases([8 * i for i in mixed], 2, 16) == 0


def test_padded_rows():
    """One chunk of 16 bytes beside rows of 128: the rows begin 4 banks apart."""
    elements = [(lane % 16) * 72 + lane // 16 * 8 for lane in range(32)]
    assert extra_phases(elements, 2, 16) == 0


def test_halves_of_a_warp_are_apart():
    """Lanes 0 and 8 of 16-byte accesses, 0 and 16 of 8-byte ones, are never in one phase."""
    for access_bytes, apart in ((16, 8), (8, 16)):
        elements = [None] * 32
        elements[0], elements[apart] = 0, 32
        assert extra_phases(elements, 4, access_bytes) == 0
        elements[apart - 1] = 64
        assert extra_phases(elements, 4, access_bytes) == 1


def test_order_of_cdna():
    """Lanes 0 and 20 read together, lanes 0 and 4 do not; they write the other way round."""
    for write in (False, True):
        elements = [None] * 64
        elements[0], elements[20] = 0, 32
        assert extra_phases(elements, 4, 16, "gfx90a", write=write) == (not write)
        elements[20], elements[4] = None, 32
        assert extra_phases(elements, 4, 16, "gfx90a", write=write) == write


def test_no_such_width():
    with pytest.raises(ValueError, match="not 12"):
        phases("sm_80", 12)


# ---- how the atoms of matrix products read their tiles ------------------------------------


@pytest.mark.parametrize(("arch", "rows"), [("gfx90a", 32), ("gfx1100", 16)])
def test_chunks_of_amd(arch, rows):
    """Each lane reads a chunk of a row of 128 bytes: plain, and XORed with the row.

    The halves of a wave read two chunks on CDNA, and the same one on RDNA.
    """
    lanes = range(64 if arch == "gfx90a" else 32)
    chunk = [lane // rows if arch == "gfx90a" else 3 for lane in lanes]
    plain = [8 * (lane % rows * 8 + chunk[lane]) for lane in lanes]
    mixed = [8 * (lane % rows * 8 + (chunk[lane] ^ lane % 8)) for lane in lanes]
    assert extra_phases(plain, 2, 16, arch) == 7 * len(lanes) // 8
    assert extra_phases(mixed, 2, 16, arch) == 0


@pytest.mark.parametrize(("factor", "extra"), [(0, 3), (1, 1), (2, 0)])
def test_transposed_floats(factor, extra):
    """8 rows of 4 terms, terms 128 bytes apart; chunks XORed with a multiple of the term."""
    elements = [
        lane % 4 * 32 + (lane // 4 // 4 ^ factor * (lane % 4)) * 4 + lane // 4 % 4
        for lane in range(32)
    ]
    assert extra_phases(elements, 4, 4) == extra
