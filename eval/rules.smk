# Evaluation: every run's images of the same prompts and noise, their scores, and the run's ledger.

IMAGES = f"{suite.folder}/images/{{run}}/seed{{seed}}"
SCORES = f"{suite.folder}/scores/{{run}}/seed{{seed}}"
LEDGER = f"{suite.folder}/ledger/{{run}}/seed{{seed}}"


# Images are no outputs: an interrupted job keeps those it has made.
rule generate:
    input:
        transformer=lambda wildcards: (
            rules.train.output.weights if suite.trained(wildcards.run) else []
        ),
    output:
        manifest=f"{IMAGES}/manifest.jsonl",
        provenance=f"{IMAGES}/provenance.json",
    log:
        f"{suite.folder}/logs/generate/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        gpu=1,
        seconds=suite.seconds("generate"),
    params:
        settings=lambda wildcards: suite.settings(
            wildcards.run, wildcards.seed
        ).generate.json(),
        data=suite.data("generate"),
        out=subpath(output.manifest, parent=True),
    message:
        "generate {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.generate --settings {params.settings:q} --transformer {input.transformer:q}"
        " --out {params.out:q} > {log:q} 2>&1"


# Beside each table stands a journal of finished scores, no output either.
rule score:
    input:
        manifest=rules.generate.output.manifest,
    output:
        tables=[f"{SCORES}/{name}.csv" for name in [*suite.shape.evaluators, "geneval"]],
        judged=f"{SCORES}/geneval.jsonl",
        provenance=f"{SCORES}/provenance.json",
    log:
        f"{suite.folder}/logs/score/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        gpu=1,
        seconds=suite.seconds("score"),
    params:
        settings=lambda wildcards: suite.settings(
            wildcards.run, wildcards.seed
        ).score.json(),
        data=suite.data("score"),
        images=subpath(input.manifest, parent=True),
        out=subpath(output.provenance, parent=True),
    message:
        "score {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.score --settings {params.settings:q} --images {params.images:q}"
        " --out {params.out:q} > {log:q} 2>&1"


# All that the paper reads of a run; provenance.json is written last and stands for the whole.
rule ledger:
    input:
        train=lambda wildcards: (
            [rules.train.output.log, rules.train.output.provenance]
            if suite.trained(wildcards.run)
            else []
        ),
        images=suite.evaluated(f"{IMAGES}/provenance.json"),
        scores=suite.evaluated(f"{SCORES}/provenance.json"),
    output:
        scores=f"{LEDGER}/scores.csv",
        sheet=f"{LEDGER}/samples.png",
        tiles=f"{LEDGER}/samples.json",
        provenance=f"{LEDGER}/provenance.json",
    log:
        f"{suite.folder}/logs/ledger/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        seconds=suite.seconds("render"),
    params:
        images=subpath(input.images, parent=True),
        scores=subpath(input.scores, parent=True),
        train=lambda wildcards, input: [Path(path).parent for path in input.train[:1]],
        out=subpath(output.provenance, parent=True),
    message:
        "ledger {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.ledger --images {params.images:q} --scores {params.scores:q}"
        " --train {params.train:q} --out {params.out:q} > {log:q} 2>&1"


# The prompts that the paper trains and evaluates on, from their sources; any file of the user's own does as well:
#   snakemake --cores 1 fetch_prompts [--config mirror=DIR]
rule fetch_prompts:
    log:
        f"{suite.folder}/logs/fetch_prompts.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        mirror=suite.mirror,
    message:
        "fetch the paper's prompts"
    shell:
        "(env -u TQDM_DISABLE TQDM_POSITION=-1 python -m leapalign.fetch hpdv2 mjhq {params.mirror:q}"
        " && python -m eval.prompts) 2>&1 | tee {log:q}"
