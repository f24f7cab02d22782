"""Print docs/reference.md: every public name with the first line of its docstring.

python scripts/reference_table.py > docs/reference.md
"""

import importlib
import inspect

HEAD = """# Every public name

A name with a star is also `kprune.<name>`. The docstrings say more: `help(kprune.Pruning)`. TFMOT's
names, which are `kprune.<name>` as well, are in [tfmot.md](tfmot.md). What is not listed here may
change without notice.
"""
ROOMS = (
    "training", "pruning", "structured", "oneshot", "targets", "export", "measure", "compression",
    "search",
)  # fmt: skip


def _first_line(value):
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return "data: " + ", ".join(f"`{key}`" for key in value)
    return inspect.cleandoc(value.__doc__).split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def main():
    """Print the page."""
    import kprune

    print(HEAD)
    for name in ROOMS:
        room = importlib.import_module(f"kprune.{name}")
        print(f"## `kprune.{name}`\n\n{_first_line_of_module(room)}\n\n| | |\n|---|---|")
        for public in sorted(room.__all__, key=str.lower):
            star = " *" if public in kprune.__all__ else ""
            print(f"| `{public}`{star} | {_first_line(getattr(room, public))} |")
        print()


def _first_line_of_module(room):
    return inspect.cleandoc(room.__doc__).split("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    main()
