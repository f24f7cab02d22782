"""Warnings name the line outside of kprune, however deep they are given."""

import pytest

from kprune._system import warn


@pytest.mark.parametrize("depth", ["one", "two"])
def test_the_line_is_the_users(depth):
    code = (
        "from kprune._system.warn import warn_user\n"
        "def one(): warn_user('so it is')\n"
        "def two(): one()\n"
    )
    inside = {}
    exec(compile(code, str(warn._PACKAGE / "search" / "deep.py"), "exec"), inside)
    with pytest.warns(UserWarning, match="so it is") as warned:
        inside[depth]()
    assert [one.filename for one in warned] == [__file__]
