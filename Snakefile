# The replication suite as a workflow: train -> generate -> score -> ledger -> tables, figures, report.
# Settings: config.yaml. Rules stand beside the code they run, in */rules.smk.
from snakemake.utils import min_version

from leapalign.workflow import forecast, load_suite

min_version("9.14")


configfile: "config.yaml"


suite = load_suite(config)
if workflow.is_main_process:
    print(suite.why, file=sys.stderr)


wildcard_constraints:
    run="|".join(suite.runs),
    seed="|".join(map(str, suite.seeds)),


include: "leapalign/rules.smk"
include: "eval/rules.smk"
include: "benchmarks/rules.smk"
include: "paper/rules.smk"
include: "pocket/rules.smk"


localrules:
    all,
    extended,


# The scale's tables, figures, claims and report.
rule all:
    default_target: True
    input:
        rules.report.output,
        rules.claims.output,


# What goes beyond the paper's own comparison: more methods, and the tables that show them.
rule extended:
    input:
        BEYOND,


onstart:
    suite.check_weights(
        (job.rule.name, job.wildcards.run)
        for job in workflow.dag.needrun_jobs()
        if job.wildcards.get("run")
    )
    given = workflow.resource_settings
    print(
        forecast(workflow.dag.needrun_jobs(), given.cores, given.nodes),
        file=sys.stderr,
    )


onsuccess:
    print(f"results: {suite.folder}", file=sys.stderr)
