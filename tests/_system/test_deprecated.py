import pytest

import kprune


def test_old_modules_can_be_imported_from():
    message = r"kprune\.sharing\.share_weights is deprecated.*use kprune\.training\.cluster_once\."
    with pytest.warns(DeprecationWarning, match=message) as said:
        from kprune.sharing import share_weights
    assert share_weights is kprune.training.cluster_once
    assert said[-1].filename == __file__


def test_what_never_was_is_missing():
    with pytest.raises(ImportError, match="shear"):
        from kprune.sharing import shear  # noqa: F401
    with pytest.raises(AttributeError, match=r"'kprune\.sharing' has no attribute 'shear'"):
        _ = kprune.sharing.shear
