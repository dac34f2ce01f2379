"""The verbs of ``rag-exp``, one function each. Imports nothing heavy before a verb needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

USAGE = """usage: rag-exp VERB [arguments]

The lab for scaling studies of retrieval-augmented language models.

  run [overrides]            one run: build what is missing, train, evaluate, record
  run -m study=NAME          a whole study; issued again, it goes on where it stopped
  run -m a=1,2 b=3,4         a sweep (any Hydra sweep and launcher)
  run --dry [overrides]      what would happen: non-default values, sizes, FLOPs, store hits
  plan [overrides]           bytes, FLOPs, time and shards of a run or a study, before it is run
  bench [-m] [overrides]     measure a search alone: run with task=retrieval
  status study=NAME          done / running / failed / missing
  fit study=NAME             fit the study's laws
  fit data=FILE [N=COLUMN]   fit a law to anybody's table
  frontier study=NAME        what a budget buys best by the study's law
  frontier card=FILE         ... by any law's fit card, at stated costs
  suggest study=NAME         which runs to add within a budget
  report study=NAME          write report.html and the figures
  show RUN [--question ID]   a run, or one question of it: passages, prior, posterior, answer
  export RUN --trec FILE     what a run's search found, as a TREC run file
  diff RUN RUN               configs and metrics side by side, with a paired bootstrap
  store ls | gc              what the store holds and who needs it; free what nothing needs

`rag-exp VERB --help` tells more. Every verb takes --config-dir DIR (default: ./configs, where there is
one) for your own config groups.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        exit code: 0 done; 1 a run failed; 2 the command or its input is wrong; 130 interrupted.
    """
    from rag_exp.core.errors import ConfigError, DataError, RagExpError, did_you_mean

    # On a busy machine OpenMP's threads spin while they wait for each other, which made training here five times
    # slower; it reads this once, when torch or faiss is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        from rag_exp import __version__

        print(f"rag-exp {__version__}")
        return 0
    verb, arguments = argv[0], argv[1:]
    if verb not in VERBS:
        print(f"rag-exp: no verb {verb!r}.{did_you_mean(verb, VERBS)}\n\n{USAGE}", file=sys.stderr)
        return 2
    in_words = (
        "run",
        "plan",
        "bench",
        "status",
        "fit",
        "frontier",
        "suggest",
        "report",
    )  # the others' help is argparse's
    if verb in in_words and {"-h", "--help"} & set(arguments):
        import inspect

        print(inspect.getdoc(VERBS[verb]))
        return 0
    try:
        return VERBS[verb](arguments)
    except (ConfigError, DataError) as e:
        print(f"rag-exp {verb}: {e}", file=sys.stderr)
        return 2
    except RagExpError as e:
        print(f"rag-exp {verb}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nrag-exp {verb}: interrupted. Issue the command again to go on.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def run(argv: list[str]) -> int:
    """usage: rag-exp run [-m] [--dry] [--config-dir DIR] [overrides]

    Overrides are Hydra's: key=value, group=option, experiment=NAME, study=NAME (with -m).
    --dry prints what would happen and stops. Hydra's own flags (--cfg job, --info, ...) work too.
    """
    dry, argv = _taken(argv, "--dry")
    multirun, argv = _taken(argv, "-m", "--multirun")
    config_dir, argv = _option(argv, "--config-dir", "-cd")
    from rag_exp import config as configs

    user = configs.user_configs(config_dir)
    if any(a.startswith("-") for a in argv):
        from rag_exp.run import job

        configs.job(job, argv, user, multirun)
        return 0
    from rag_exp import study as studies

    plan = studies.expand(argv, user)
    is_study = any(a.startswith("study=") for a in argv)
    if dry:
        from rag_exp.dry import describe

        print(describe(plan, configs.compose([], user).plain))
        return 0
    if len(plan.points) > 1 and not (multirun or is_study):
        raise configs.ConfigError("Several values need -m: rag-exp run -m ...")
    from rag_exp.preflight import prepare
    from rag_exp.run import COMMAND, announce, job

    prepare([(p.config, p.steps) for p in plan.points])
    command = _command("run", *(["-m"] if multirun else []), *argv)
    os.environ[COMMAND] = command  # every process of the study records it
    records = studies.run_study(plan, job, user, command)
    announce(plan, records)
    return 0 if all(r is not None and r.status == "finished" for r in records) else 1


def plan(argv: list[str]) -> int:
    """usage: rag-exp plan [study=NAME] [plan.KEY=VALUE] [overrides]

    Bytes on disk and in memory, FLOPs and expected time of every stage that is not in the store, each with its formula.
    Rates are measured here in ten seconds, or stated: plan.flops_per_second=1e14 plan.bytes_per_second=1e9
    plan.tokens_per_second=1e5. plan.memory=64e9 says how many shards an index needs on machines of so many bytes.
    Also: plan.tokens_per_passage, tokens_per_question, tokens_per_answer, bytes_per_token, passages, questions,
    encoder_parameters, utilization, seconds (rag_exp/planning.py says what they are).
    """
    own = [a for a in argv if a.startswith("plan.")]
    config_dir, rest = _option([a for a in argv if a not in own], "--config-dir", "-cd")
    from rag_exp import config as configs
    from rag_exp import study as studies
    from rag_exp.plan import describe, plan_options

    plan_options(own, {})  # what is wrong with it is said before a study is expanded
    expanded = studies.expand(rest, configs.user_configs(config_dir))
    for line in describe(expanded, plan_options(own, expanded.costs)):
        print(line)
    return 0


def bench(argv: list[str]) -> int:
    """usage: rag-exp bench [-m] [--dry] [--config-dir DIR] [overrides]

    Measures a search alone: recall against exact search, gold passages and grades, speed, bytes, build time. It is
    `run` with task=retrieval: sweeps, studies, records, status and report work as for any run.
    """
    return run([*argv, "task=retrieval"])


def status(argv: list[str]) -> int:
    """usage: rag-exp status study=NAME [overrides]

    The plan against what is there. The exit code is 0 when every run is done.
    """
    plan = _study(argv)
    from rag_exp import study as studies

    rows = studies.status(plan)
    width = max(len(_where(p.axes)) for p, _, _ in rows)
    for point, state, detail in rows:
        print(f"{state:8} {point.run_id[:12]}  {_where(point.axes):{width}}  {detail}".rstrip())
    counts = {s: sum(state == s for _, state, _ in rows) for s in ("done", "running", "failed", "missing")}
    print(f"{plan.name}: " + ", ".join(f"{n} {s}" for s, n in counts.items()) + f", {len(rows)} in the plan")
    return 0 if counts["done"] == len(rows) else 1


def _where(axes: dict[str, str]) -> str:
    return " ".join(f"{k}={v}" for k, v in axes.items())


def fit(argv: list[str]) -> int:
    """usage: rag-exp fit study=NAME [law.KEY=VALUE] [overrides]
           rag-exp fit data=FILE [N=COLUMN D=COLUMN ... y=COLUMN] [law=FORM,FORM] [loss=... bootstrap=... out=DIR]

    Fits the study's laws to its finished runs and writes one fit card each. With nothing but the study's name,
    the overrides that it was last run with are taken. With data=FILE (CSV, TSV, parquet, JSON lines: a row for each
    run, as W&B's table of runs has) the law is that of the file's rows; its card and figures are written to
    fits/<name of the file>. Also: units.N=1e6 (N is in millions), fixed.E=1.69 (what is known), weights=COLUMN,
    cluster=COLUMN (rows of one checkpoint), holdout=largest_N,..., acceptable=2, delta, resample, level, coverage=200
    (how often such intervals hold the truth), missing=leave_out, unconverged=leave_out, seed
    (rag_exp/analysis/file_fits.py says what they are).
    """
    if any(a.startswith("data=") for a in argv):
        from rag_exp.analysis.file_fits import FileFit, fit_file

        for line in fit_file(FileFit.of_words(argv)):
            print(line)
        return 0
    plan = _study(argv, as_run=True)
    from rag_exp.analysis.fits import fit_study
    from rag_exp.study import records_of, write_plan

    write_plan(plan, "")
    for line in fit_study(plan, records_of(plan)):
        print(line)
    return 0


def frontier(argv: list[str]) -> int:
    """usage: rag-exp frontier study=NAME [budgets=FLOPS,FLOPS] [queries=NUMBER] [overrides]
           rag-exp frontier card=FILE [budgets=FLOPS,FLOPS] [costs.NAME=FLOPS ...] [out=DIR]

    Parameters, training tokens, passages and passages read that a budget buys best, by the study's law and at the costs
    that its runs measured: training, embedding the corpus, and searching and reading for every query. Also:
    costs.NAME=FLOPS (rag_exp/laws/costs.py names them), caps.M=NUMBER, reach=DECADES beyond the data, law=factorised
    with given.index=KIND, given.growth=KIND. With card=FILE (a fit card of rag-exp fit) the costs are those that are
    stated; a law in N and D needs none, since training costs 6 N D.
    """
    from rag_exp.analysis.allocations import KEYS, frontier_card, frontier_options

    own = [a for a in argv if a.partition("=")[0].partition(".")[0] in KEYS]
    options = frontier_options(own)
    if options.card is not None:
        if others := [a for a in argv if a not in own]:
            from rag_exp.core.errors import ConfigError

            raise ConfigError([f"{word}: means nothing beside card=FILE." for word in others])
        for line in frontier_card(options):
            print(line)
        return 0
    plan = _study([a for a in argv if a not in own], as_run=True)
    from rag_exp.analysis.allocations import frontier_study
    from rag_exp.study import records_of, write_plan

    write_plan(plan, "")
    for line in frontier_study(plan, records_of(plan), options):
        print(line)
    return 0


def suggest(argv: list[str]) -> int:
    """usage: rag-exp suggest study=NAME budget=FLOPS|TIME [parts=NUMBER] [overrides]

    Runs to add within a budget, as commands and as grids to paste: levels that the study's law lacks, then the largest
    that it pays for (parts=2: none above half of it), with what each costs and what the law expects of it. New are the
    other sizes of the generator, another seed, and corpus sizes, passages read and lengths of training that go on with
    the study's own. A budget of time (90min, 2h, 3d) is that of one run after another, as the study's own runs took.
    """
    from rag_exp.suggest import KEYS, suggest_options, suggest_runs

    own = [a for a in argv if a.partition("=")[0] in KEYS]
    options = suggest_options(own)
    plan = _study([a for a in argv if a not in own], as_run=True)
    from rag_exp import config as configs
    from rag_exp.study import records_of, write_plan

    write_plan(plan, "")
    user = configs.user_configs(_option(argv, "--config-dir", "-cd")[0])
    for line in suggest_runs(plan, records_of(plan), options, user):
        print(line)
    return 0


def report(argv: list[str]) -> int:
    """usage: rag-exp report study=NAME [overrides]

    Writes report.html (needs no network) and figures/ as PNG and PDF into the study's folder.
    """
    plan = _study(argv, as_run=True)
    from rag_exp.analysis.fits import report_study
    from rag_exp.study import records_of, write_plan

    write_plan(plan, "")
    print(f"report: {report_study(plan, records_of(plan))}")
    return 0


def show(argv: list[str]) -> int:
    """Show a run, or one question of it."""
    parser = argparse.ArgumentParser(prog="rag-exp show", description=show.__doc__)
    parser.add_argument("run", help="a run id, or enough of its first letters")
    parser.add_argument(
        "--question",
        metavar="ID",
        help="one question: passages, scores, prior, posterior, answer (of a bench run: what was found)",
    )
    parser.add_argument("--root", default=None, help="where the runs are (default: $RAG_EXP_ROOT or ./outputs)")
    given = parser.parse_args(argv)
    from rag_exp.show import root_folder, show_question, show_run

    root = root_folder(given.root)
    print(show_question(root, given.run, given.question) if given.question else show_run(root, given.run))
    return 0


def export(argv: list[str]) -> int:
    """Write what a run's search found as a TREC run file, which trec_eval and retrieval=run read."""
    parser = argparse.ArgumentParser(prog="rag-exp export", description=export.__doc__)
    parser.add_argument("run", help="a run id, or enough of its first letters")
    parser.add_argument("--trec", metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--root", default=None, help="where the runs are (default: $RAG_EXP_ROOT or ./outputs)")
    given = parser.parse_args(argv)
    from pathlib import Path

    from rag_exp.show import export_run, root_folder

    print(export_run(root_folder(given.root), given.run, Path(given.trec)))
    return 0


def diff(argv: list[str]) -> int:
    """Two runs side by side: what differs in their configs, their metrics, and a paired bootstrap over questions."""
    parser = argparse.ArgumentParser(prog="rag-exp diff", description=diff.__doc__)
    parser.add_argument("a", metavar="RUN")
    parser.add_argument("b", metavar="RUN")
    parser.add_argument("--draws", type=int, default=10_000, help="bootstrap draws (default: 10000)")
    parser.add_argument("--root", default=None, help="where the runs are (default: $RAG_EXP_ROOT or ./outputs)")
    given = parser.parse_args(argv)
    from rag_exp.diff import diff_runs
    from rag_exp.show import root_folder

    print(diff_runs(root_folder(given.root), given.a, given.b, given.draws))
    return 0


def store(argv: list[str]) -> int:
    """List what the store holds, or delete what no kept record needs."""
    parser = argparse.ArgumentParser(prog="rag-exp store", description=store.__doc__)
    parser.add_argument("action", choices=["ls", "gc"])
    parser.add_argument(
        "--force",
        action="store_true",
        help="gc: delete also what kept records need, and the progress of unfinished builds",
    )
    parser.add_argument("--dry", action="store_true", help="gc: only say what would be deleted")
    parser.add_argument("--kind", help="only artifacts of this kind")
    parser.add_argument("--root", default=None, help="where the runs are (default: $RAG_EXP_ROOT or ./outputs)")
    parser.add_argument("--store", default=None, help="where the store is (default: store/ below the root)")
    given = parser.parse_args(argv)
    from pathlib import Path

    from rag_exp.housekeeping import collect_garbage, list_store
    from rag_exp.show import root_folder

    root = root_folder(given.root)
    folder = Path(given.store) if given.store else root / "store"
    if given.action == "ls":
        print(list_store(root, folder, given.kind))
    else:
        print(collect_garbage(root, folder, given.kind, force=given.force, dry=given.dry))
    return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "plan": plan,
    "bench": bench,
    "status": status,
    "fit": fit,
    "frontier": frontier,
    "suggest": suggest,
    "report": report,
    "show": show,
    "export": export,
    "diff": diff,
    "store": store,
}


def _study(argv: list[str], as_run: bool = False) -> object:
    """The expanded study of a verb's arguments; ``as_run``: as it was last run, where they only name it."""
    config_dir, argv = _option(argv, "--config-dir", "-cd")
    from rag_exp import config as configs
    from rag_exp import study as studies
    from rag_exp.core.errors import ConfigError

    user = configs.user_configs(config_dir)
    if not any(a.startswith("study=") for a in argv):
        known = ", ".join(configs.group_options("study", user))
        raise ConfigError(f"Name a study: study=NAME. Known: {known}.")
    if as_run:
        given, argv = argv, studies.last_overrides(argv, user)
        if argv != given:
            print(f"as last run: {' '.join(argv)}", file=sys.stderr)
    return studies.expand(argv, user)


def _taken(argv: list[str], *flags: str) -> tuple[bool, list[str]]:
    return any(a in flags for a in argv), [a for a in argv if a not in flags]


def _option(argv: list[str], *names: str) -> tuple[str | None, list[str]]:
    """Take ``--name VALUE`` or ``--name=VALUE`` out of ``argv``."""
    rest, value = [], None
    words = iter(argv)
    for word in words:
        name, equals, tail = word.partition("=")
        if name in names:
            value = tail if equals else next(words, None)
        else:
            rest.append(word)
    return value, rest


def _command(*words: str) -> str:
    import shlex

    return shlex.join(["rag-exp", *words])


if __name__ == "__main__":
    sys.exit(main())
