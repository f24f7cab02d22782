"""Tables that several scripts print."""


def accuracies(found, arms, title, notes=()):
    """Return a table of accuracies: a row for each network, a column for each seed.

    Args:
        found: dict with "runs", a list of dicts with "seed", and "flops", "parameters" and
            "accuracy" of each network; and "accuracy", the means.
        arms: names of the networks, the first one "dense".
        title: str.
        notes: lines below.
    """
    from kprune.report import tables

    runs = found["runs"]
    rows = [
        (
            arm,
            tables.scaled(runs[0]["flops"][arm], "FLOPs"),
            tables.count(runs[0]["parameters"][arm]),
            *(tables.percent(run["accuracy"][arm]) for run in runs),
            tables.percent(found["accuracy"][arm]),
            f"{100 * (found['accuracy'][arm] - found['accuracy']['dense']):+.2f}",
        )
        for arm in arms
    ]
    seeds = [f">seed {run['seed']}" for run in runs]
    columns = ["network", ">FLOPs", ">parameters", *seeds, ">mean", ">points to dense"]
    return tables.table(columns, rows, title=title, notes=notes)
