# The paper: ledgers -> one target per table and figure, the claims -> one report; and the committed ledger's paper.

from leapalign import digests

COMMITTED = Path("results/ledger")
# Editing what renders them renders tables and figures again; nothing before them.
PAPER_CODE = digests.of_package("paper")
SEEDS = " ".join(map(str, suite.seeds))
EXTENDED = [*suite.ledgers(suite.experiments.extended.runs), suite.trajectories]
tables, figures = f"{suite.folder}/tables", f"{suite.folder}/figures"
BEYOND = [
    *expand(f"{tables}/{{name}}.json", name=suite.experiments.extended.tables),
    *expand(f"{figures}/{{name}}.svg", name=suite.experiments.extended.figures),
]


for name, exhibit in suite.experiments.tables.items():

    rule:
        name:
            f"table_{name}"
        input:
            suite.shown(exhibit),
        output:
            json=f"{tables}/{name}.json",
            tex=f"{tables}/{name}.tex",
            csv=report(
                f"{tables}/{name}.csv",
                caption="captions/table.rst",
                category="Tables",
                labels={"table": name},
            ),
            md=f"{tables}/{name}.md",
        log:
            f"{suite.folder}/logs/paper/table_{name}.log",
        conda:
            "../environment.yml"
        threads: 1
        resources:
            seconds=suite.seconds("render"),
        params:
            name=name,
            title=exhibit.title,
            seeds=SEEDS,
            ledger=lambda wildcards: f"{suite.folder}/ledger",
            out=subpath(output.csv, parent=True),
            code=PAPER_CODE,
        message:
            "table {params.name}"
        shell:
            "python -m paper.tables {params.name} --ledger {params.ledger:q} --seeds {params.seeds}"
            " --output {params.out:q} > {log:q} 2>&1"


for name, exhibit in suite.experiments.figures.items():

    rule:
        name:
            f"figure_{name}"
        input:
            suite.shown(exhibit),
        output:
            svg=f"{figures}/{name}.svg",
            csv=f"{figures}/{name}.csv",
            pdf=f"{figures}/{name}.pdf",
            png=report(
                f"{figures}/{name}.png",
                caption="captions/figure.rst",
                category="Figures",
                labels={"figure": name},
            ),
        log:
            f"{suite.folder}/logs/paper/figure_{name}.log",
        conda:
            "../environment.yml"
        threads: 1
        resources:
            seconds=suite.seconds("render"),
        params:
            name=name,
            title=exhibit.title,
            seeds=SEEDS,
            ledger=lambda wildcards: f"{suite.folder}/ledger",
            out=subpath(output.png, parent=True),
            code=PAPER_CODE,
        message:
            "figure {params.name}"
        shell:
            "python -m paper.figures {params.name} --ledger {params.ledger:q} --seeds {params.seeds}"
            " --output {params.out:q} > {log:q} 2>&1"


rule claims:
    input:
        suite.ledgers(suite.experiments.default.runs),
        suite.designs,
    output:
        json=f"{suite.folder}/claims/claims.json",
        csv=report(
            f"{suite.folder}/claims/claims.csv",
            caption="captions/claims.rst",
            category="Claims",
        ),
        tex=f"{suite.folder}/claims/claims.tex",
        md=f"{suite.folder}/claims/claims.md",
    log:
        f"{suite.folder}/logs/paper/claims.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        seconds=3 * suite.seconds("render"),
    params:
        seeds=SEEDS,
        ledger=lambda wildcards: f"{suite.folder}/ledger",
        # Extended runs are judged where they have been made; the claims ask for none of them.
        also=[path for path in EXTENDED if Path(path).is_file()],
        out=subpath(output.json, parent=True),
        code=PAPER_CODE,
    message:
        "claims"
    shell:
        "python -m paper.claims --ledger {params.ledger:q} --seeds {params.seeds}"
        " --output {params.out:q} > {log:q} 2>&1"


rule report:
    input:
        ledgers=suite.ledgers(suite.experiments.default.runs),
        tables=expand(f"{tables}/{{name}}.json", name=suite.experiments.default.tables),
        figures=expand(
            f"{figures}/{{name}}.svg", name=suite.experiments.default.figures
        ),
        claims=rules.claims.output.json,
    output:
        page=report(
            f"{suite.folder}/report/index.html",
            caption="captions/report.rst",
            category="Report",
        ),
        tex=f"{suite.folder}/report/paper.tex",
    log:
        f"{suite.folder}/logs/paper/report.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        seconds=suite.seconds("render"),
    params:
        seeds=SEEDS,
        root=subpath(output.page, ancestor=2),
        # What shows extended runs is shown where it has been made.
        also=[path for path in BEYOND if Path(path).is_file()],
        code=PAPER_CODE,
    message:
        "report"
    shell:
        "python -m paper.report --ledger {params.root:q}/ledger --seeds {params.seeds}"
        " --rendered {params.root:q} > {log:q} 2>&1"


rule render:
    input:
        lambda wildcards: sorted(
            map(str, (COMMITTED / wildcards.committed).rglob("*.*"))
        ),
    output:
        report=report(
            "results/paper/{committed}/report/index.html",
            caption="captions/report.rst",
            category="Report",
        ),
        tables=directory("results/paper/{committed}/tables"),
        figures=directory("results/paper/{committed}/figures"),
        claims=directory("results/paper/{committed}/claims"),
    log:
        "results/paper/{committed}/render.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        seconds=40,
    params:
        ledger=lambda wildcards: COMMITTED / wildcards.committed,
        out=subpath(output.report, ancestor=2),
        code=PAPER_CODE,
    message:
        "paper from the committed ledger of scale {wildcards.committed}"
    shell:
        # It shows what is committed, whatever of one's own config.yaml names now.
        "env -u LEAPALIGN_CONFIG python -m paper --ledger {params.ledger:q} --output {params.out:q}"
        " > {log:q} 2>&1"


# The same from whatever is measured by now, a failed or unfinished run being a gap: results/<scale>/so_far.
rule so_far:
    log:
        f"{suite.folder}/logs/paper/so_far.log",
    conda:
        "../environment.yml"
    params:
        seeds=SEEDS,
        ledger=f"{suite.folder}/ledger",
        out=f"{suite.folder}/so_far",
    message:
        "tables, figures and report of what is measured by now"
    shell:
        "python -m paper --ledger {params.ledger:q} --seeds {params.seeds} --output {params.out:q}"
        " > {log:q} 2>&1"


# Tables, figures, claims and report of the committed ledgers alone: nothing is trained or sampled.
rule paper:
    input:
        expand(
            rules.render.output.report,
            committed=sorted(path.name for path in COMMITTED.glob("*/")),
        ),


localrules:
    paper,
    so_far,
