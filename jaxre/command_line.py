"""The `jaxre` command: fit a file or one of the data sets that come with the package."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import pathlib
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

import jaxre
from jaxre import datasets, files, report, tables, wide
from jaxre.coefficient_error import DF
from jaxre.design import Design, design, listing
from jaxre.distributions import level_of

WRONG_USE = 2  # exit status for whatever the user can put right
INTERRUPTED = 130  # what a shell reports of a command stopped by Ctrl-C
CLOSED_PIPE = 141  # what a shell reports of a command that its reader left


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of the `jaxre` command: 0, or 2 after one line of error.

    Args:
        argv: arguments; those of the process when None.

    Returns:
        Exit status.

    Errors:
        SystemExit from argparse, for wrong usage, --help and --version.

    Source: definition.

    Example:
        >>> from jaxre.command_line import main
        >>> main(["fit", "dyestuff"])  # doctest: +ELLIPSIS
        Linear mixed model fit by REML
        Formula: Yield ~ 1 + (1 | Batch)
        30 observations in 6 groups of 5
        ...
        0
    """
    arguments = _parser().parse_args(argv)
    try:
        print(arguments.run(arguments), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return CLOSED_PIPE
    except KeyboardInterrupt:
        print("jaxre: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"jaxre: error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG_USE
    return 0


class _Parser(argparse.ArgumentParser):
    """Errors are one line that begins with `jaxre: error:`, whichever command they come from."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments"):
            message += "; names in a list have commas and no spaces between them, as in --covariates A,B"
        self.exit(WRONG_USE, f"jaxre: error: {message}; see {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxre", description="Fit the one-way random-effects model.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"jaxre {jaxre.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    fitting = commands.add_parser("fit", help="fit a file or a data set by name", allow_abbrev=False)
    fitting.add_argument(
        "file", metavar="FILE", help=f"a file ({', '.join(files.ENDINGS)}) or a name that `jaxre datasets` lists"
    )
    fitting.add_argument("--outcome", metavar="NAME", help="column of the outcome")
    fitting.add_argument("--group", metavar="NAME", help="column of the group labels")
    fitting.add_argument("--covariates", metavar="A,B", help="columns of the covariates; text is treatment-coded")
    fitting.add_argument("--method", choices=("reml", "ml", "anova"), default="reml", help="default: reml")
    fitting.add_argument("--level", type=_level, default=0.95, help="of the intervals, default: 0.95")
    fitting.add_argument("--df", choices=DF, help="default: kenward-roger for reml, else satterthwaite")
    fitting.add_argument("--groups", action="store_true", help="list the groups with their predicted means")
    fitting.add_argument("--json", action="store_true", help="print every number at full precision")
    fitting.set_defaults(run=_fit)

    many = commands.add_parser("fit-many", help="fit many datasets of one file", allow_abbrev=False)
    many.add_argument("file", metavar="FILE", help=f"a table ({', '.join(files.ENDINGS)}) or a .npy matrix")
    many.add_argument("--group", metavar="NAME", help="column of the group labels; for a matrix a file of labels")
    many.add_argument("--outcomes", metavar="A,'B*'", help="columns of the outcomes, with * and ?: a wide table")
    many.add_argument("--dataset", metavar="NAME", help="column of the dataset labels: a long table")
    many.add_argument("--outcome", metavar="NAME", help="column of the outcome of a long table")
    many.add_argument("--covariates", metavar="A,B", help="columns of the covariates; text is treatment-coded")
    many.add_argument("--method", choices=("reml", "ml", "anova"), default="reml", help="default: reml")
    many.add_argument("--inference", action="store_true", help="add tests and intervals of each dataset as columns")
    many.add_argument("--level", type=_level, help="of the intervals, default: 0.95")
    many.add_argument("--df", choices=DF, help="default: kenward-roger for reml, else satterthwaite")
    many.add_argument("--out", metavar="FILE", help=f"table to write, a row a dataset ({', '.join(wide.OUTPUTS)})")
    many.set_defaults(run=_fit_many)

    listed = commands.add_parser("datasets", help="list the data sets that come with jaxre", allow_abbrev=False)
    listed.set_defaults(run=_list)
    return parser


def _fit(arguments: argparse.Namespace) -> str:
    file, outcome, group = arguments.file, arguments.outcome, arguments.group
    covariates = _split(arguments.covariates or "")
    if file.lower() in datasets.names():
        data = datasets.load(file)
        outcome, group = outcome or data.outcome, group or data.group
        covariates = list(data.covariates) if arguments.covariates is None else covariates
        made = design(data.columns, outcome, group, covariates, source=data.name)
    else:
        _check_file(file, outcome, group)
        made = tables.read(file, outcome, group, covariates)
    result = _fitted(made, arguments.method)
    inference = result.inference(arguments.level, arguments.df)
    if not arguments.json:
        groups = result.tidy_groups(arguments.level) if arguments.groups else None
        return report.summary(result, inference, groups, outcome=outcome, group=group)
    facts = {"file": file, "outcome": outcome, "group": group, "covariates": covariates, **result.to_dict()}
    facts["inference"] = inference.to_dict()
    facts["tables"] = {
        "terms": report.plain_columns(result.tidy(arguments.level, arguments.df)),
        "fit": report.plain_columns(result.glance()),
        "groups": report.plain_columns(result.tidy_groups(arguments.level)),
        "rows": report.plain_columns(result.augment()),
    }
    return json.dumps(_finite(facts), indent=2, allow_nan=False)


def _level(text: str) -> float:
    try:
        return level_of(float(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"level must lie between 0 and 1, such as 0.95, got {text}") from None


def _split(names: str) -> list[str]:
    """Names between commas; one that holds a comma stands in double quotes."""
    try:
        found = [name.strip() for name in next(csv.reader([names], skipinitialspace=True), [])]
    except csv.Error as error:
        raise ValueError(f"{names!r} must be names with commas between them on one line: {error}.") from None
    if len(found) > 1 and "" in found:
        raise ValueError(f"{names!r} must be names with commas between them, got an empty one; leave out that comma.")
    return found


def _check_file(file: str, outcome: str | None, group: str | None) -> None:
    if not file:
        raise ValueError("FILE is empty; name a file, or a data set that comes with jaxre.")
    if not pathlib.Path(file).suffix and not pathlib.Path(file).exists():
        raise ValueError(
            f"{file!r} is neither a file nor a data set that comes with jaxre ({', '.join(datasets.names())})."
        )
    needed = [option for option, value in (("--outcome", outcome), ("--group", group)) if not value]
    if needed:
        raise ValueError(
            f"{' and '.join(needed)} must name a column of {file}; it has {listing(tables.column_names(file))}."
        )


def _fitted(made: Design, method: str) -> Any:
    from jaxre.fitting import fit_observed  # here, so that what is wrong with a file is said before JAX loads
    from jaxre.observations import observe

    data = observe(made.outcome, made.groups, made.covariates)
    return fit_observed(dataclasses.replace(data, names=made.coefficients), method)


def _fit_many(arguments: argparse.Namespace) -> str:
    file, group, covariates = arguments.file, arguments.group, _split(arguments.covariates or "")
    needed = [option for option, value in (("--group", group), ("--out", arguments.out)) if not value]
    matrix = file.lower().endswith(".npy")
    if not matrix and arguments.dataset is None and not arguments.outcomes:
        needed.append("--outcomes, or --dataset and --outcome,")
    if arguments.dataset is not None and not arguments.outcome:
        needed.append("--outcome")
    if needed:
        raise ValueError(f"{' and '.join(needed)} must be given; see jaxre fit-many --help.")
    given = {"--covariates": covariates, "--outcomes": arguments.outcomes, "--outcome": arguments.outcome}
    given |= {"--dataset": arguments.dataset}
    if not arguments.inference:
        unused = [option for option, value in (("--level", arguments.level), ("--df", arguments.df)) if value]
        if unused:
            raise ValueError(f"{' and '.join(unused)} says how to compute tests and intervals; add --inference.")
    of_matrix, of_long, of_wide = (), ("--covariates", "--outcome", "--dataset"), ("--covariates", "--outcomes")
    meant = of_matrix if matrix else of_wide if arguments.dataset is None else of_long
    idle = [option for option, value in given.items() if value and option not in meant]
    if idle:
        kind = "a matrix" if matrix else "a wide table" if arguments.dataset is None else "a long table"
        raise ValueError(f"{' and '.join(idle)} cannot be used with {kind}; leave out, or see jaxre fit-many --help.")
    wide.check_output(arguments.out)
    if pathlib.Path(arguments.out).resolve() in [pathlib.Path(name).resolve() for name in (file, group)]:
        raise ValueError(f"--out must not be a file that is read, got {arguments.out}; name another.")
    if matrix:
        made = wide.read_matrix(file, group)
    elif arguments.dataset is None:
        made = wide.read_wide(file, _split(arguments.outcomes), group, covariates)
    else:
        long, labels = wide.read_long(file, arguments.outcome, group, arguments.dataset, covariates)
    from jaxre.many import DEFAULT, EVERY, fit_many  # here, so that what is wrong with a file is said before JAX loads

    words = {"method": arguments.method}
    if arguments.inference:
        words |= {"quantities": (*DEFAULT, EVERY), "level": arguments.level or 0.95, "df": arguments.df}
    if arguments.dataset is None:
        fits = fit_many(made.values, made.groups, made.covariates, **words)
        fits = dataclasses.replace(
            fits, names=np.array(made.names, object), coefficients=("(Intercept)", *made.coefficients)
        )
    else:
        fits = fit_many(long.outcome, long.groups, long.covariates, datasets=labels, **words)
        fits = dataclasses.replace(fits, coefficients=("(Intercept)", *long.coefficients))
    wide.write(fits.to_dict(), arguments.out)
    return f"{fits.summary()}\nwritten to {arguments.out}"


def _finite(item: Any) -> Any:
    """The item with None for NaN and infinity, which JSON lacks."""
    if isinstance(item, dict):
        return {key: _finite(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_finite(value) for value in item]
    return None if isinstance(item, float) and not math.isfinite(item) else item


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, subsequent_indent="    ", break_on_hyphens=False)


def _list(arguments: argparse.Namespace) -> str:
    head = ("name", "rows", "groups", "outcome", "group", "covariates")
    every = [datasets.load(name) for name in datasets.names()]
    rows = [
        (data.name, str(data.rows), str(data.groups), data.outcome, data.group, ",".join(data.covariates) or "-")
        for data in every
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
    sources = [_wrapped(f"{data.name}: {data.title}. {data.source}.") for data in every]
    return "\n".join([*lines, "", *sources])
