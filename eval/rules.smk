# Evaluation: weights -> images -> scores -> the run's ledger, which is all that tables and figures read.


rule generate:
    input:
        transformer=lambda wildcards: (
            rules.train.output.weights if suite.trained(wildcards.run) else []
        ),
    output:
        manifest=f"{suite.folder}/images/{{run}}/seed{{seed}}/manifest.jsonl",
        provenance=f"{suite.folder}/images/{{run}}/seed{{seed}}/provenance.json",
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
        transformer=lambda wildcards, input: (
            f"--transformer {input.transformer}" if input else ""
        ),
        out=subpath(output.manifest, parent=True),
    message:
        "generate {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.generate --settings {params.settings:q} {params.transformer}"
        " --out {params.out:q} > {log:q} 2>&1"


rule score:
    input:
        manifest=rules.generate.output.manifest,
    output:
        provenance=f"{suite.folder}/scores/{{run}}/seed{{seed}}/provenance.json",
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


rule ledger:
    input:
        images=lambda wildcards: rules.generate.output.manifest.format(
            run=wildcards.run, seed=suite.evaluated_seed(wildcards.run, wildcards.seed)
        ),
        scores=lambda wildcards: rules.score.output.provenance.format(
            run=wildcards.run, seed=suite.evaluated_seed(wildcards.run, wildcards.seed)
        ),
        train=lambda wildcards: (
            rules.train.output.log if suite.trained(wildcards.run) else []
        ),
    output:
        provenance=f"{suite.folder}/ledger/{{run}}/seed{{seed}}/provenance.json",
    log:
        f"{suite.folder}/logs/ledger/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        seconds=suite.seconds("render"),
    params:
        about=lambda wildcards: suite.about(wildcards.run, wildcards.seed),
        images=subpath(input.images, parent=True),
        scores=subpath(input.scores, parent=True),
        train=lambda wildcards, input: (
            f"--train {Path(input.train).parent}" if input.get("train") else ""
        ),
        out=subpath(output.provenance, parent=True),
    message:
        "ledger {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.ledger --images {params.images:q} --scores {params.scores:q} {params.train}"
        " --about {params.about:q} --out {params.out:q} > {log:q} 2>&1"
