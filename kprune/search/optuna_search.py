"""Sparsities and widths layer by layer, by Optuna: an extra, for those who have the time."""

import dataclasses
import importlib.util

from kprune.search.points import Step, point_from
from kprune.structured.widths import free_groups
from kprune.targets import for_target, prepare

# Of the weights that stay, and of a group's channels that do.
_SPARSITIES, _WIDTHS = (0.68, 0.98), (0.2, 1.0)
_POINT = "point"  # The attribute of a trial that holds what came of it.


class Trials:
    """The trials of an Optuna study, as steps of a search.

    Several processes may take part, on one storage: Optuna gives each trial its number.
    Akiba et al., "Optuna: A next-generation hyperparameter optimization framework" (2019).

    Args:
        space: a `Space`.
        goal: a `Goal`, whose drop and budget are the study's two objectives, both minimized.
        journal: the `Journal` of the search, by which its study is told from others in a
            `storage`, and in whose folder Optuna's own is without one.
        storage: as of `optuna.create_study`; None for a journal file.
        trials: int, how many there should be in all.
        seed: int.
    """

    def __init__(self, space, goal, journal, storage, trials, seed):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if storage is None:
            backend = optuna.storages.journal.JournalFileBackend(str(journal.path("optuna.log")))
            storage = optuna.storages.JournalStorage(backend)
        self._space, self._goal, self._most = space, goal, trials
        self._failed = optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(
            storage=storage,
            study_name=f"kprune-{journal.key}",
            load_if_exists=True,
            directions=["minimize", "minimize"],
        )
        # Another process, or this one going on, should not ask for the same again.
        sampler = optuna.samplers.TPESampler(seed=seed + len(self._study.trials))
        self._study.sampler = sampler

    def __iter__(self):
        """Yield `(number, step, tell)`: `tell(point)` ends the trial."""
        while len(self.points) < self._most:
            trial = self._study.ask()
            step = self._space.step(trial)

            def tell(point, trial=trial):
                trial.set_user_attr(_POINT, point.to_dict())
                if point.drop is None:
                    self._study.tell(trial, state=self._failed)
                else:
                    self._study.tell(trial, [point.drop, self._goal.share(point)])

            yield trial.number + 1, step, tell

    @property
    def points(self):
        """The `Point`s of the trials that are over, of all processes."""
        trials = [t for t in self._study.get_trials(deepcopy=False) if t.state.is_finished()]
        return [point_from(t.user_attrs[_POINT]) for t in trials if _POINT in t.user_attrs]


@dataclasses.dataclass(frozen=True)
class Space:
    """What a trial chooses.

    Attributes:
        layers: names of the layers that have kernels for zeros on the target.
        groups: names of the groups of channels that can lose some.
        quantize: kinds of `quantize`, None among them.
        prepared: bool, whether `prepare` comes first.
    """

    layers: list
    groups: list
    quantize: tuple
    prepared: bool

    def step(self, trial):
        """Return the `Step` of an Optuna trial."""
        kind = trial.suggest_categorical("quantize", self.quantize)
        layers = {
            name: round(trial.suggest_float(f"sparsity/{name}", *_SPARSITIES), 4)
            for name in self.layers
        }
        widths = {
            name: round(trial.suggest_float(f"width/{name}", *_WIDTHS), 4) for name in self.groups
        }
        return Step(0, quantize=kind, prepared=self.prepared, layers=layers, widths=widths)


def space_for(model, target, ways):
    """Return the `Space` of a model on a target.

    Raises:
        ValueError: there is nothing to choose.
    """
    layers = []
    if ways.sparse:
        changed = prepare(model, target)[0] if ways.prepared else model
        layers = list(for_target(changed, target))
    groups = free_groups(model) if ways.channels else []
    if not layers and not groups:
        raise ValueError(
            f"Nothing in {model.name!r} can be pruned for {target.name}: neither zeros nor fewer "
            "channels (see kprune.for_target and kprune.channel_groups)."
        )
    return Space(layers, groups, (None, *ways.quantize), ways.prepared)


def check_installed():
    """Raise ImportError unless Optuna is installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ImportError(
            "search='optuna' needs Optuna. Install it with: pip install \"kprune[search]\""
        )
