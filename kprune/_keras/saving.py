"""What Keras' saving knows, and public names do not let at."""

from keras.src.saving import object_registration, serialization_lib


def functions_allowed():
    """A scope in which configurations may hold a `Lambda`'s code.

    Needs `SafeModeScope` of `keras.src.saving.serialization_lib`: `from_config`, which makes a
    layer of its own class, takes no `safe_mode`, and the public switch
    `keras.config.enable_unsafe_deserialization` cannot be turned off again.
    """
    return serialization_lib.SafeModeScope(False)


def registered_names():
    """Return the dict from registered classes and functions to the names they are saved under.

    It is Keras' own, and may be changed. Needs `GLOBAL_CUSTOM_NAMES` of
    `keras.src.saving.object_registration`: `register_keras_serializable` cannot be undone, refuses
    names that are taken, and adds a package.
    """
    return object_registration.GLOBAL_CUSTOM_NAMES
