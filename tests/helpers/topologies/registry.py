"""Where every topology is registered, and which of its groups are frozen."""

TOPOLOGIES = {}
FROZEN = {}
VOCABULARY = 20


def topology(frozen):
    """Register a builder, and the makers of its frozen groups."""

    def register(builder):
        TOPOLOGIES[builder.__name__] = builder
        FROZEN[builder.__name__] = set(frozen.split())
        return builder

    return register
