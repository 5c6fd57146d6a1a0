import pytest

pytest.importorskip("coverage", reason="needs the extra `dev`")

from reliability.interpreted_exits import exits

SOURCE = """\
@jit
def kernel(x):
    if x:
        x += 1


def plain(x):
    if x:
        x += 1
"""


def test_a_copy_leaves_as_the_kernel_does():
    inside, left, entered, plain = (3, 4), (3, -2), (-2, 3), (8, -7)
    assert exits([inside, left, entered, plain], SOURCE) == [(3, -1)]
