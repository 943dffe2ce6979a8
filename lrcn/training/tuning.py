"""Which settings are compared, and a table of how good they were in their folds."""
import argparse
import contextlib
import difflib
import itertools
from dataclasses import dataclass, fields

from lrcn.base.cli import UserError
from lrcn.base.values import Choice, Number, Switch, number_or_all
from lrcn.evaluation.intervals import Figures, compare
from lrcn.training.recipe import Recipe

KNOWN = {f.name: f.metadata for f in fields(Recipe)}
# What may differ between settings; they share their clips, folds, seeds and machine.
KINDS = {name: m["kind"] for name, m in KNOWN.items()
         if m["group"] in ("network", "training") and name != "seed" and m["decides"] != "nothing"}
KINDS |= {"test_windows": number_or_all, "flip": Switch()}
ALIASES = {word.lstrip("-"): name for name, m in KNOWN.items() for word in m["names"]}
LOGARITHMIC = 10    # a range of positive numbers whose ends have this ratio is searched by its logarithm
COLUMNS = ("top1", "ci95_low", "ci95_high", "sd_of_seeds", "loss", "minus_first", "minus_first_low",
           "minus_first_high", "mcnemar_p", "fault")


@dataclass(frozen=True)
class Dimension:
    """A flag and its values, or, without values, all numbers from low to high."""
    name: str
    values: tuple = ()
    low: float = None
    high: float = None


def dimension(text):
    """The Dimension of `lr=1e-4,5e-4` or `lr=1e-5..1e-3`; UserError names what is wrong."""
    name, _, values = text.partition("=")
    name = flag_name(name, f"--set {text}")
    if not values:
        raise UserError(f"--set {text}: give values, as in {name}=A,B, or a range, as in {name}=LOW..HIGH")
    low, dots, high = values.partition("..")
    if dots:
        if not isinstance(KINDS[name], Number):
            raise UserError(f"--set {text}: {name} is not a number and has no range; give values, as A,B")
        low, high = value_of(name, low), value_of(name, high)
        if {type(low), type(high)} - {int, float} or low >= high:
            raise UserError(f"--set {text}: the first number of a range is the smaller one")
        return Dimension(name, low=low, high=high)
    values = tuple(value_of(name, word) for word in values.split(","))
    if len(set(map(repr, values))) < len(values):
        raise UserError(f"--set {text}: one value is given twice")
    return Dimension(name, values)


def flag_name(word, source):
    """The field of Recipe (or flag of testing) that a word names; UserError: none, and which is near."""
    word = word.strip().lstrip("-").replace("-", "_")
    name = ALIASES.get(word, word)
    if name in KINDS:
        return name
    if name in KNOWN:
        hint = "--seeds N" if name == "seed" else f"--{name} itself, where there is such a flag"
        raise UserError(f"{source}: all settings share clips, folds, seeds and machine; give {hint}")
    near = difflib.get_close_matches(name, [*KINDS, *ALIASES], n=1)
    raise UserError(f"{source}: train.py has no flag {word}" +
                    (f"; did you mean {near[0]}?" if near else "; its --help lists them"))


def value_of(name, word):
    """The value of a word, as its flag takes it."""
    kind, word = KINDS[name], word.strip()
    try:
        return kind(word.lower() if isinstance(kind, Choice) else word)
    except (argparse.ArgumentTypeError, ValueError):
        raise UserError(f"--set {name}={word}: expected {kind}, not {word}") from None


def check_space(space, trials, against=None):
    """The name of the flag `against`. UserError: the space does not have it, has a flag twice, or has a range
    without a search."""
    names = [d.name for d in space]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(f"--set {name}: given twice; put all its values into one, with commas")
        if not space[i].values and not trials:
            raise UserError(f"--set {name}: a range is searched with --trials N; or give values with commas")
    if trials and not space:
        raise UserError(f"--trials {trials}: there is nothing to search; give --set NAME=LOW..HIGH")
    if against is None:
        return None
    name = flag_name(against, f"--against {against}")
    if name not in names or trials:
        raise UserError(f"--against {against}: it takes a flag whose values --set lists" +
                        (", not for --trials" if trials else ""))
    return name


def grid(base, space):
    """Every combination of the values, the first flag's changing slowest."""
    return [base.with_(dict(zip([d.name for d in space], values, strict=True)))
            for values in itertools.product(*(d.values for d in space))]


def one_by_one(base, space):
    """All first values, then every other value with the first values of the other flags."""
    first = {d.name: d.values[0] for d in space}
    return [base.with_(first), *(base.with_({**first, d.name: v}) for d in space for v in d.values[1:])]


def title(setting, first):
    """The name of a setting: all that was chosen, or what differs from the first setting."""
    before = first.chosen if first and setting is not first else ()
    return ", ".join(f"{k} {v}" for k, v in setting.chosen if (k, v) not in before) or "as given"


def search(base, space, trials, validation, train):
    """[Setting]: the one as given, and `trials` that Optuna's tree of Parzen estimators asked for.
    train(settings) does the trainings. Only the journal is kept: with one seed the same answers lead to the
    same questions, so that a search goes on after a kill."""
    try:
        import optuna
    except ImportError:
        raise UserError(f"--trials {trials}: this needs the package optuna: pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize",
                                sampler=optuna.samplers.TPESampler(seed=base.recipe.seed))
    asked, first = {}, {d.name: getattr(base.recipe if d.name in KNOWN else base, d.name) for d in space}
    for d in space:
        if d.values:
            asked[d.name] = optuna.distributions.CategoricalDistribution(d.values)
        else:
            number = getattr(optuna.distributions, f"{KINDS[d.name].kind.__name__.capitalize()}Distribution")
            asked[d.name] = number(d.low, d.high, log=d.low > 0 and d.high >= LOGARITHMIC * d.low)

    def accuracy(setting):
        train([setting])
        right = validation.right(setting)
        return None if right is None else float(right.mean())

    settings = [base.with_(first)]
    value = accuracy(settings[0])
    with contextlib.suppress(TypeError, ValueError):    # not trained, or not one of the space
        study.add_trial(optuna.create_trial(params=first, distributions=asked, value=value))
    for _ in range(trials):
        trial = study.ask(asked)
        chosen = {d.name: trial.params[d.name] for d in space}
        for d in space:     # three digits, to type it again, and still within the range
            if not d.values and KINDS[d.name].kind is float:
                chosen[d.name] = min(max(float(f"{chosen[d.name]:.3g}"), d.low), d.high)
        setting = base.with_(chosen)
        value = accuracy(setting)
        study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.FAIL)
        if setting not in settings:
            settings.append(setting)
    return settings


@dataclass(frozen=True)
class Row(Figures):
    """A setting's Figures over all held-out clips and seeds. folds: the accuracy in each. fault: why there
    are no figures."""
    setting: object = None
    name: str = ""
    folds: tuple = ()
    loss: float = None
    fault: str = None


def table(settings, validation, against=None):
    """[Row] of settings, in their order, each with its difference from the first, or, by the flag `against`,
    from the one that differs only in having its first value."""
    plan, rows = validation.plan, []
    for setting in settings:
        right, name = validation.right(setting), title(setting, None if against else settings[0])
        if right is None:
            rows.append(Row(setting=setting, name=name, fault=validation.fault(setting)))
            continue
        wanted = against and {**dict(setting.chosen), against: dict(settings[0].chosen)[against]}
        other = next((s for s in settings if against and dict(s.chosen) == wanted), settings[0])
        figures = compare(right, plan.groups, None if setting is other else validation.right(other))
        folds = tuple(float(right[:, plan.folds == k].mean()) for k in plan.numbers)
        rows.append(Row(**vars(figures), setting=setting, name=name, folds=folds,
                        loss=validation.loss(setting)))
    return rows


def best(rows):
    """The Row of the highest accuracy, the first of equals; UserError where none has one."""
    there = [row for row in rows if row.top1 is not None]
    if not there:
        raise UserError(f"no setting could be trained: {rows[0].fault}")
    return max(there, key=lambda row: row.top1)


def lines(rows, minus, markdown=False):
    """The rows as text, or as a table of a document. minus: what is subtracted in a difference, in words."""
    wide = max(len(row.name) for row in rows)
    table = [("setting", "accuracy [95%]", f"minus {minus} [95%]", "folds")]
    for row in rows:
        table.append((row.name, "", "", row.fault or "not trained") if row.top1 is None else
                     (row.name, str(row), row.difference, " ".join(f"{x:.2f}" for x in row.folds)))
    if markdown:
        head, *text = [f"| {a} | {b} | {d} | {c} |" for a, b, c, d in table]
        return [head, "|---|---|---|---|", *text]
    return [f"{name:<{wide}}  {top1:<20}  {minus:<24}  {rest}".rstrip() for name, top1, minus, rest in table]
